"""Names of a log's columns in tables of other programs, and which of them mean one event."""

import re
import unicodedata

# Role → names, the surest first; compared without case, "_" and other separators.
ROLES: dict[str, tuple[str, ...]] = {
    "request_id": (
        "request_id", "request", "req_id", "request_uuid", "rid", "session_id", "session", "query_id", "qid",
        "search_id", "page_view_id", "page_id", "view_id", "slate_id", "list_id", "feed_id", "group_id",
        "impression_id", "impression", "trace_id",
        "sitzung", "sitzung_id", "anfrage", "anfrage_id", "seance", "seance_id", "requete", "id_requete",
    ),
    "user_id": (
        "user_id", "user", "uid", "user_uuid", "customer_id", "customer", "client_id", "client", "visitor_id",
        "visitor", "member_id", "member", "buyer_id", "shopper_id", "profile_id", "account_id", "person_id",
        "viewer_id", "cookie_id", "cookie", "device_id",
        "kunde", "kunden_id", "kundennr", "kundennummer", "nutzer", "nutzer_id", "benutzer", "benutzer_id",
        "utilisateur", "id_utilisateur", "id_client", "usuario", "id_usuario", "cliente", "id_cliente",
    ),
    "item_id": (
        "item_id", "item", "iid", "product_id", "product", "sku", "sku_id", "asin", "goods_id", "document_id",
        "document", "doc_id", "doc", "article_id", "article", "news_id", "content_id", "content", "video_id", "video",
        "listing_id", "listing", "offer_id", "ad_id", "movie_id", "track_id", "song_id", "post_id", "photo_id",
        "candidate_id", "candidate",
        "artikel", "artikel_id", "artikelnr", "artikelnummer", "produkt", "produkt_id", "produktnr", "produit",
        "id_produit", "id_article", "producto", "id_producto",
    ),
    "position": (
        "position", "slot", "rank", "pos", "place", "display_position", "shown_position", "page_position",
        "impression_position", "item_position", "ranking", "display_rank", "shown_rank",
        "platz", "rang", "stelle", "posicion",
    ),
    "timestamp": (
        "timestamp", "timestamp_ms", "time", "ts", "at", "datetime", "time_ms", "request_time", "request_timestamp",
        "event_time", "event_timestamp", "served_at", "shown_at", "created_at", "server_time", "epoch", "unix_time",
        "date",
        "zeitpunkt", "zeitstempel", "zeit", "datum", "horodatage", "date_heure", "fecha",
    ),
    "scored_at": ("scored_at", "predicted_at", "prediction_time", "prediction_timestamp", "scoring_time"),
    "scenario": (
        "scenario", "surface", "placement", "page_type", "section", "store_section", "channel", "tab", "screen", "site",
        "platform", "device", "device_type", "market", "country", "locale",
    ),
    "value": (
        "value", "price", "item_price", "unit_price", "list_price", "sale_price", "selling_price", "item_value",
        "amount", "revenue", "gmv",
    ),
    "category": (
        "category", "category_id", "item_category", "product_category", "genre", "topic", "kategorie", "warengruppe",
        "categorie", "rayon", "categoria",
    ),
    "embedding": ("embedding", "item_embedding", "embedding_vector", "item_vector", "vector"),
    "shown": (
        "shown", "is_shown", "was_shown", "displayed", "is_displayed", "visible", "viewable", "viewed", "impressed",
        "exposed", "is_exposed", "impression", "is_impression", "was_displayed", "is_visible", "was_visible",
        "was_viewed", "was_exposed", "was_seen", "seen",
    ),
}  # fmt: skip

# The same of columns that raw events have beside those.
RAW_ROLES: dict[str, tuple[str, ...]] = {
    "kind": (
        "event_type", "event_name", "event_kind", "event", "action", "action_type", "interaction", "interaction_type",
        "behavior", "behavior_type", "behaviour", "activity", "kind", "type", "ereignis", "aktion", "art", "evenement",
        "type_evenement", "evento", "accion",
    ),
    "price": ("price", "item_price", "unit_price", "list_price", "preis", "prix", "precio", "prezzo"),
    "amount": (
        "amount", "revenue", "gmv", "value", "total", "spent", "paid", "quantity", "qty", "betrag", "umsatz", "menge",
        "montant", "quantite", "importe",
    ),
    "rating": ("rating", "ratings", "stars", "score", "grade", "bewertung", "sterne", "note", "puntuacion"),
    "group": (
        "category", "category_id", "item_category", "product_category", "genre", "topic", "section", "brand",
        "kategorie", "warengruppe", "marke", "categorie", "rayon", "marque", "categoria",
    ),
    "known": ("event_time", "feedback_time", "known_at", "updated_at", "received_at"),
}  # fmt: skip
_EXPOSURES = {"impression", "exposure", "expose", "show", "shown", "display", "serve", "render", "present", "impress"}
_EXPOSURES |= {"einblendung", "eingeblendet", "angezeigt", "anzeige", "affichage", "affiche", "impresion", "imp"}
_VIEWS = {"view", "pageview", "detail", "visit", "seen", "see", "gesehen", "ansicht", "aufruf", "vue", "vu", "vista"}

# What people write on the command line, and the column of a log that it is.
SHORT = {
    "request": "request_id",
    "user": "user_id",
    "item": "item_id",
    "slot": "position",
    "time": "timestamp",
    "policy": "policy_version",
    "production": "production_score",
}
SKIP = "skip"  # the role of columns to leave out
# By these names alone.
NATIVE = ("seed", "policy_version", "exploration", "trust", "baseline", "verdict", "candidates", "production_score")

_PLACES = {
    "scenario",
    "surface",
    "placement",
    "section",
    "tab",
    "screen",
    "feed",
    "shelf",
    "carousel",
    "zone",
    "module",
}
_SLOTS = {"slot", "position", "pos", "rank", "ranking", "place"}
_EXPLORING = {"random", "randomized", "randomised", "shuffle", "shuffled", "exploration", "explore", "explored"}
_PREDICTION = {"p", "pred", "preds", "prediction", "predicted", "prob", "probability", "proba", "score", "logit", "est"}
_PREDICTION |= {"estimate", "estimated", "model", "hat", "phat", "expected", "pct", "percent", "percentage", "forecast"}
_FEEDBACK = {"y", "is", "has", "did", "was", "label", "target", "feedback", "event", "events", "n", "num", "count"}
_FEEDBACK |= {"item", "items", "ids", "list", "flag"}
_RATES = {"ctr": "click", "pctr": "click", "cvr": "conversion", "pcvr": "conversion", "pclick": "click"}
_EVENTS = (
    {"click", "tap", "open", "clickthrough", "klick", "angeklickt", "geklickt", "clic", "clique"},
    {
        "buy",
        "bought",
        "purchase",
        "order",
        "conversion",
        "convert",
        "sale",
        "transaction",
        "checkout",
        "booking",
        "kauf",
        "gekauft",
        "bestellung",
        "bestellt",
        "achat",
        "achete",
        "commande",
        "compra",
        "acquisto",
    },
    {"cart", "basket", "addtocart", "atc", "cartadd", "warenkorb", "panier"},
    {"like", "favorite", "favourite", "fav", "heart", "thumbsup", "favori"},
    {"wish", "wishlist", "save", "bookmark", "merkliste", "merkzettel"},
    {"watch", "watchtime", "play", "playtime", "dwell", "dwelltime", "duration", "view"},
    {"follow", "subscribe", "subscription"},
    {"share", "forward", "repost"},
    {"comment", "reply", "review"},
    {"hide", "hidden", "dislike", "hate", "report", "notinterested"},
    {"return", "refund", "sendback"},
    {"unsubscribe", "unfollow", "block", "mute"},
)
_HARM = _EVENTS[-3:]
_CENTS = {"cent", "cents", "cts", "minor", "pence", "centimes", "centavos", "centimos"}
_IDS = {"id", "uuid", "guid", "hash", "key", "sha", "md5"}


def words(name: str) -> list[str]:
    """The words of a name in lower case: ``predClick_v2`` → pred, click, v2."""
    plain = unicodedata.normalize("NFKD", name.replace("ß", "ss")).encode("ascii", "ignore").decode()  # é is e
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", plain)
    return [word for word in re.split(r"[^0-9a-z]+", spaced.lower()) if word]


def normal(name: str) -> str:
    """The name for comparison.

    >>> normal("Session-ID") == normal("sessionId") == normal("session_id")
    True
    """
    return "".join(words(name))


def role_names(role: str) -> list[str]:
    """The names to look for, for comparison with `normal`."""
    return [normal(name) for name in (ROLES | RAW_ROLES)[role]]


def exposure_rank(name: str) -> int:
    """How surely a kind of event is an exposure: 2 an impression, 1 a view, 0 none.

    >>> [exposure_rank(name) for name in ("item_impression", "Einblendung", "view", "purchase")]
    [2, 2, 1, 0]
    """
    forms = set().union(*(_forms(word) for word in words(name)))
    return 2 if forms & _EXPOSURES else int(bool(forms & _VIEWS))


def base_name(name: str, role: str) -> str:
    """The name for comparison without a word for the kind of id; of requests not without *number*, which may be that of
    a page.

    >>> base_name("Shopper No.", "user_id"), base_name("query_uuid", "request_id"), base_name("page_no", "request_id")
    ('shopper', 'query', 'pageno')
    """
    found, kinds = words(name), _IDS if role == "request_id" else _IDS | {"no", "nr", "number"}
    return "".join(found[:-1] if len(found) > 1 and found[-1] in kinds else found)


def counts_cents(name: str) -> bool:
    """Does a word of the name mean that amounts are in hundredths?

    >>> counts_cents("preis_cent"), counts_cents("price")
    (True, False)
    """
    return bool(_CENTS & set(words(name)))


def is_id(name: str) -> bool:
    """Does the name say that the numbers are ids?"""
    return bool(_IDS & set(words(name)[-1:])) or normal(name).endswith(("id", "uuid"))


def is_prediction(name: str) -> bool:
    """Does the name say that the numbers are predictions?"""
    found = set(words(name))
    return bool(found & (_PREDICTION | set(_RATES)))


def names_place(name: str) -> bool:
    """Does a word of the name mean the part of a shop or an app that a request is for?

    >>> names_place("app_section"), names_place("device")
    (True, False)
    """
    return bool(_PLACES & set(words(name)))


def names_slot(name: str) -> bool:
    """Does a word of the name mean a slot, of the page rather than of a model's order?

    >>> names_slot("rank_pos"), names_slot("pred_rank")
    (True, False)
    """
    return bool(_SLOTS & set(words(name))) and not is_prediction(name)


def names_exploration(name: str) -> bool:
    """Does a word of the name mean that a page was shuffled?

    >>> names_exploration("is_random"), names_exploration("price")
    (True, False)
    """
    return bool(_EXPLORING & set(words(name)))


def names_event(name: str) -> bool:
    """Does a word of the name mean something that users do?

    >>> names_event("is_wishlisted"), names_event("margin")
    (True, False)
    """
    return any(_forms(word) & group for word in words(name) for group in _EVENTS)


def names_harm(task: str) -> bool:
    """Does a word of the name mean something that users do to what they do not like?

    >>> names_harm("returned"), names_harm("hide_post"), names_harm("returning_click")
    (True, True, False)
    """
    found = words(task)
    return any(_forms(word) & group for word in found for group in _HARM) and "returning" not in found


def event_of(name: str) -> str:
    """The event that a column of feedback or predictions is about.

    >>> [event_of(name) for name in ("pred_click", "is_clicked", "pCTR", "p_long_view", "y_order")]
    ['click', 'clicked', 'click', 'long_view', 'order']
    """
    if name[:2] in ("p_", "y_") and len(name) > 2:
        return name[2:]
    found = words(name)
    if "".join(found) in _RATES:  # pCTR is split into p, ctr
        return _RATES["".join(found)]
    kept = [_RATES.get(word, word) for word in found if word not in _PREDICTION | _FEEDBACK]
    return "_".join(kept) or name


def likeness(feedback: str, prediction: str) -> int:
    """How surely two events are one: 3 same name, 2 another form of the word, 1 another word for it, 0 not."""
    a, b = normal(feedback), normal(prediction)
    if a == b:
        return 3
    if _forms(a) & _forms(b):
        return 2
    return int(any(_forms(a) & group and _forms(b) & group for group in _EVENTS))


def _forms(word: str) -> set[str]:
    """The word and what it may be a form of: clicked → click, liked → like, plays → play."""
    forms = {word}
    for suffix, ends in (("s", ("",)), ("d", ("",)), ("ed", ("", "e")), ("ing", ("", "e")), ("es", ("",))):
        if word.endswith(suffix) and len(word) > len(suffix) + 2:
            stem = word.removesuffix(suffix)
            forms |= {stem + end for end in ends}
            if len(stem) > 3 and stem[-1] == stem[-2]:
                forms.add(stem[:-1])  # tapped → tap
    return forms
