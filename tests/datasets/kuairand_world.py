"""Tiny files in the published KuaiRand formats, for tests."""

from pathlib import Path

import numpy as np

HOUR = 3_600_000
FIRST_DAY = 1_649_347_200_000  # 2022-04-08 00:00 in UTC+8
LOG_HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
USER_HEADER = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,"
    "follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,register_days,"
    "register_days_range," + ",".join(f"onehot_feat{i}" for i in range(18))
)
BASIC_HEADER = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,"
    "music_id,music_type,tag"
)
EXCERPT_HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_follow,is_comment,is_forward,long_view,play_time_ms,duration_ms,"
    "comment_stay_time,is_profile_enter,label,timestamp"
)


def make_rows(users: int = 24, videos: int = 30, days: int = 24, seed: int = 0, leak: bool = False) -> list[dict]:
    """Impressions as dicts, by user and time. Clicks depend on the video; with ``leak`` every label is a coin toss that
    the row's play time and comment stay give away.
    """
    rng = np.random.default_rng(seed)
    quality = rng.normal(size=videos)
    rows = []
    for user in range(users):
        for day in range(days):
            times = np.sort(rng.integers(0, 12 * HOUR, rng.integers(3, 8))) + FIRST_DAY + day * 24 * HOUR + 8 * HOUR
            for time in times.tolist():
                video = int(rng.integers(videos))
                click = rng.random() < (0.5 if leak else 1 / (1 + np.exp(-2 * quality[video])))
                coin = rng.random(7) < (0.5 if leak else 0.2)
                shift = (time + 8 * HOUR) // (24 * HOUR) - (FIRST_DAY + 8 * HOUR) // (24 * HOUR)
                date = 20220408 + shift if shift < 23 else 20220501 + shift - 23
                rows.append(
                    {
                        "user_id": user,
                        "video_id": 100 + video,
                        "date": date,
                        "hourmin": 1200,
                        "time_ms": time,
                        "is_click": int(click),
                        "is_like": int(coin[0]),
                        "is_follow": int(coin[1]),
                        "is_comment": int(coin[2]),
                        "is_forward": int(coin[3]),
                        "is_hate": 0,
                        "long_view": int(coin[4]),
                        "play_time_ms": 60_000 * int(click) if leak else 1000,
                        "duration_ms": 10_000 + 1000 * video,
                        "profile_stay_time": 0,
                        "comment_stay_time": 500 * int(coin[5]),
                        "is_profile_enter": int(coin[6]),
                        "is_rand": int(rng.random() < 0.1 and day >= 14),
                        "tab": int(rng.integers(2)),
                    }
                )
    return rows


def write_public(directory: Path, rows: list[dict], version: str = "pure", parts: int = 1) -> Path:
    """Writes rows as the public files of one version (27K comes in parts) and returns ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    early = [r for r in rows if r["date"] < 20220422]
    late = [r for r in rows if r["date"] >= 20220422 and not r["is_rand"]]
    rand = [r for r in rows if r["date"] >= 20220422 and r["is_rand"]]
    write_csv(directory / f"log_random_4_22_to_5_08_{version}.csv", LOG_HEADER, rand)
    for stem, chunk in (("log_standard_4_08_to_4_21", early), ("log_standard_4_22_to_5_08", late)):
        if parts == 1:
            write_csv(directory / f"{stem}_{version}.csv", LOG_HEADER, chunk)
        for part in range(parts) if parts > 1 else ():
            write_csv(directory / f"{stem}_{version}_part{part + 1}.csv", LOG_HEADER, chunk[part::parts])
    users = sorted({r["user_id"] for r in rows})
    (directory / f"user_features_{version}.csv").write_text(user_text(users))
    videos = sorted({r["video_id"] for r in rows})
    lines = [
        f"{v},{v % 7},{'AD' if v % 11 == 0 else 'NORMAL'},{'' if v == 101 else '2022-03-01'},ShortImport,1.0,"
        f"17200.0,720.0,1280.0,989206467,4.0,{['', '39', chr(34) + '12,65' + chr(34)][v % 3]}"
        for v in videos
    ]
    (directory / f"video_features_basic_{version}.csv").write_text("\n".join([BASIC_HEADER, *lines]) + "\n")
    (directory / f"video_features_statistic_{version}.csv").write_text("video_id,counts,show_cnt\n100,66,75.212\n")
    return directory


def write_excerpt(directory: Path, rows: list[dict]) -> Path:
    """Writes rows as the excerpt's two files; label is is_like."""
    directory.mkdir(parents=True, exist_ok=True)
    named = [{**r, "label": r["is_like"], "timestamp": "2022-04-10 08:59:09"} for r in rows]
    write_csv(directory / "interactions.tsv", EXCERPT_HEADER, named, "\t")
    (directory / "user_features.csv").write_text(user_text(sorted({r["user_id"] for r in rows})))
    return directory


def user_text(users: list[int]) -> str:
    degrees = ("full_active", "high_active", "middle_active", "UNKNOWN")
    lines = [
        f'{u},{degrees[u % 4]},0,{-124 if u % 2 else 1},{u % 2},{u},"(0,10]",{3 * u},"[10,100)",1,"[1,5)",{100 + u},'
        f"91-180,1,2,29,949,{'' if u % 3 else '1.0'},0,0,14,135,6,3,0,{','.join(['0.0'] * 6)}"
        for u in users
    ]
    return "\n".join([USER_HEADER, *lines]) + "\n"


def write_csv(path: Path, header: str, rows: list[dict], delimiter: str = ",") -> None:
    names = header.split(",")
    lines = [delimiter.join(names)] + [delimiter.join(str(row[name]) for name in names) for row in rows]
    path.write_text("\n".join(lines) + "\n")
