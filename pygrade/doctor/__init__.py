"""The sheet of a log, before anything is trained on it: `log_sheet`, and its HTML page."""

from pygrade.doctor.page import sheet_page
from pygrade.doctor.ranking_audit import RankingAudit, audit_ranking
from pygrade.doctor.sheet import log_sheet

__all__ = ["RankingAudit", "audit_ranking", "log_sheet", "sheet_page"]
