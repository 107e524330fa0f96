"""The look of reports: light and dark by the reader's system, tables that become cards on narrow screens."""

COLORS = {  # name → light, dark; pictures are drawn in the light ones and take these names
    "ink": ("#1f2933", "#e6ebf0"),
    "faint": ("#667380", "#97a5b3"),
    "grid": ("#e3e8ee", "#343e49"),
    "blue": ("#2b6cb0", "#6aa9ea"),
    "orange": ("#dd7a34", "#ee9a5c"),
    "green": ("#3b9a6d", "#5fc494"),
    "purple": ("#8560b3", "#b394dc"),
    "red": ("#c54b5a", "#ea7f8b"),
    "teal": ("#2e9aa8", "#5cc3cf"),
    "sand": ("#c9a02c", "#e0bf5a"),
    "gray": ("#7b8592", "#93a0ad"),
    "paper": ("#f5f7f9", "#14191f"),
    "card": ("#ffffff", "#1c232b"),
    "soft": ("#4a5663", "#b9c4cf"),
    "own": ("#edf4fb", "#22364b"),
    "lift": ("126,170,219", "72,124,184"),
    "sink": ("232,160,107", "176,103,48"),
}


def _variables(place: int) -> str:
    return "".join(f"--{name}:{both[place]};" for name, both in COLORS.items())


CSS = (
    f":root{{color-scheme:light dark;{_variables(0)}}}"
    f"@media(prefers-color-scheme:dark){{:root{{{_variables(1)}}}}}"
    """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
 font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:32px 24px 60px}
h1{font-size:26px;line-height:1.25;margin:0 0 6px;overflow-wrap:anywhere}h2{font-size:18px;margin:0 0 6px}
h3{font-size:14px;margin:0 0 6px;overflow-wrap:anywhere}
p{margin:0 0 14px;color:var(--soft);max-width:82ch}.lead{font-size:16px}.note{font-size:13px}
a{color:var(--blue)}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin:18px 0}nav a{text-decoration:none;font-size:14px}
section,.verdict,.warning{background:var(--card);border:1px solid var(--grid);border-radius:10px;padding:20px 24px;
 margin:16px 0}
.verdict{border-left:6px solid var(--gray);font-size:18px}.verdict p{margin:0;color:var(--ink);max-width:none}
.verdict small{display:block;font-size:13px;margin-top:4px}
.verdict.better{border-left-color:var(--green)}.verdict.worse{border-left-color:var(--red)}
.verdict.undecided{border-left-color:var(--sand)}
.warning{border-left:6px solid var(--orange);padding:12px 20px;overflow-wrap:anywhere}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:12px}
.card{background:var(--card);border:1px solid var(--grid);border-radius:10px;padding:12px 16px}
.name,.range,small{color:var(--faint);font-size:13px}.figure{font-size:24px;font-weight:650;color:var(--blue)}
.card.other .figure{color:var(--ink)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:6px 8px;text-align:right;border-bottom:1px solid var(--grid);vertical-align:middle}
td.number,th.number{white-space:nowrap}
th.text,td.text,th.mark,td.mark,tbody th{text-align:left}td.text{overflow-wrap:break-word}
thead th{color:var(--faint);font-weight:600;vertical-align:bottom}
tbody th{font-weight:600;overflow-wrap:break-word;min-width:8.5em}
tr.own th,tr.own td{background:var(--own)}
.facts{width:auto}
.facts tbody th{padding-right:24px;white-space:nowrap}
.shade{padding:2px 6px;border-radius:3px}
.bar{height:5px;background:var(--grid);border-radius:3px;margin-bottom:3px}
.bar i{display:block;height:5px;border-radius:3px;background:var(--blue)}
details summary{cursor:pointer;color:var(--blue);font-size:14px;margin:10px 0}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(290px,1fr));gap:14px}
.figures svg{width:100%;height:auto;display:block;max-width:460px}
.figures svg:only-child{max-width:760px}
svg text{fill:var(--ink);font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
svg.mark{display:block;overflow:visible}svg.mark text{font-size:11px;fill:var(--faint);font-weight:400}
svg.mark .mid{text-anchor:middle}svg.mark .end{text-anchor:end}
.mark circle.own,.mark rect.own{fill:var(--blue)}.mark line.own{stroke:var(--blue);stroke-width:2}
.mark circle.other,.mark rect.other{fill:var(--gray)}.mark line.other{stroke:var(--gray);stroke-width:2}
.mark circle.second,.mark rect.second{fill:var(--orange)}.mark line.second{stroke:var(--orange);stroke-width:2}
.mark line.origin{stroke:var(--faint);stroke-width:1}.mark line.tick{stroke:var(--ink);stroke-width:2}
.key{font-size:13px;color:var(--faint);margin:0 0 10px}.key b{font-weight:600}
.key .own{color:var(--blue)}.key .other{color:var(--gray)}.key .second{color:var(--orange)}
.pages{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:14px;margin:6px 0 22px}
.pages ol{margin:0;padding:0;list-style:none;font-size:13px;border:1px solid var(--grid);border-radius:8px}
.pages li{display:flex;gap:8px;padding:4px 8px;border-bottom:1px solid var(--grid);align-items:baseline}
.pages li:last-child{border-bottom:0}.pages li>b{color:var(--faint);font-weight:400;min-width:1.6em;text-align:right}
.pages li>span{flex:1;overflow-wrap:anywhere}.pages li>i{font-style:normal;font-size:12px;white-space:nowrap}
.pages .up{color:var(--green)}.pages .down{color:var(--orange)}.pages .same{color:var(--faint)}
.pages em{font-style:normal;font-size:11.5px;background:var(--own);border-radius:4px;padding:0 5px;margin-left:4px;
 display:inline-block}
@media(max-width:700px){
 main{padding:20px 12px 40px}section,.verdict{padding:16px 14px}.pages{grid-template-columns:1fr}
 table.stack thead{display:none}
 table.stack,table.stack tbody,table.stack tr,table.stack th,table.stack td{display:block;width:100%}
 table.stack tr{padding:8px 0;border-bottom:1px solid var(--grid)}
 table.stack tbody th,table.stack td{border:0;padding:2px 6px;white-space:normal}
 table.stack td{display:flex;justify-content:space-between;gap:12px;text-align:right}
 table.stack td:empty{display:none}
 table.stack td::before{content:attr(data-label);color:var(--faint);text-align:left}
 table.stack td.mark::before{content:""}
 .facts tbody th{white-space:normal;padding-right:10px}
}
"""
)
