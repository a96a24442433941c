"""Reports: a study as one self-contained page, for clinicians and auditors alike."""

from treaty.reports.document import ReportData, report_bytes, report_digest
from treaty.reports.render import MAX_REPORT_BYTES, render_report

__all__ = ["MAX_REPORT_BYTES", "ReportData", "render_report", "report_bytes", "report_digest"]
