"""The profile of a log, before anything is trained on it: `profile_log`, and its HTML page."""

from pygrade.doctor.page import profile_page
from pygrade.doctor.profile import profile_log
from pygrade.doctor.ranking_audit import RankingAudit, audit_ranking

__all__ = ["RankingAudit", "audit_ranking", "profile_log", "profile_page"]
