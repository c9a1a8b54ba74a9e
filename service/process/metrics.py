"""What is measured: every Prometheus metric of the service.

With PROMETHEUS_MULTIPROC_DIR set, prometheus-client keeps every value in files of that directory, which
`metrics_server` adds up over the workers.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

FAST = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
REQUEST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)

REQUEST_SECONDS = Histogram(
    "nextclick_request_seconds", "Time to answer a request", ("method", "route", "status"), buckets=REQUEST
)
REFUSED = Counter("nextclick_requests_refused", "Requests refused before a handler saw them", ("reason",))
IN_FLIGHT = Gauge(
    "nextclick_requests_in_flight", "Requests under way, over all workers", multiprocess_mode="livesum"
)
CLICKS = Counter("nextclick_clicks", "Clicks: accepted, duplicate or refused", ("outcome",))
RECOMMENDATIONS = Counter("nextclick_recommendations", "Recommendations answered", ("stage", "version"))
ENCODE_SECONDS = Histogram("nextclick_encode_seconds", "Time to encode sessions", buckets=FAST)
SEARCH_SECONDS = Histogram("nextclick_search_seconds", "Time to search the nearest items", buckets=FAST)
REDIS_ERRORS = Counter("nextclick_redis_errors", "Calls to Redis that failed", ("operation",))
BUNDLE_LIVE = Gauge(
    "nextclick_bundle_live",
    "Workers that serve a version",
    ("version", "model", "role"),
    multiprocess_mode="livesum",
)
BUNDLE_FAILURES = Counter("nextclick_bundle_failures", "Bundles and deployments that were refused")
JUDGED = Counter("nextclick_judged_clicks", "Next clicks that an answer was judged by", ("version",))
HITS = Counter("nextclick_judged_hits", "Of these, clicks on one of the 20 items answered", ("version",))
RECIPROCAL_RANKS = Counter(
    "nextclick_judged_reciprocal_ranks", "Sum of 1 / rank of the clicked item among the 20", ("version",)
)
FEEDBACK = Counter("nextclick_feedback_clicks", "Clicks that named the recommendation", ("version",))
PLACEMENT_RECOMMENDATIONS = Counter(
    "nextclick_placement_recommendations", "Recommendations answered in a placement", ("placement", "stage")
)
PLACEMENT_JUDGED = Counter(
    "nextclick_placement_judged_clicks", "Next clicks that a placement was judged by", ("placement",)
)
PLACEMENT_HITS = Counter(
    "nextclick_placement_judged_hits", "Of these, clicks on one of the 20 items shown", ("placement",)
)
PLACEMENT_RECIPROCAL_RANKS = Counter(
    "nextclick_placement_judged_reciprocal_ranks",
    "Sum of 1 / rank of the clicked item among those shown",
    ("placement",),
)
LOG_ENTRIES = Gauge("nextclick_click_log_entries", "Entries in the click log", multiprocess_mode="mostrecent")
LOG_FILL = Gauge(
    "nextclick_click_log_fill_ratio",
    "Fullest shard of the click log; clicks are refused at 1",
    multiprocess_mode="mostrecent",
)
LOG_UNCOLLECTED = Gauge(
    "nextclick_click_log_uncollected", "Entries not collected yet", multiprocess_mode="mostrecent"
)
REDIS_DAMAGED = Gauge(
    "nextclick_redis_damaged",
    "Times the private Redis's data was damaged, until what was kept of it is deleted",
    multiprocess_mode="mostrecent",
)
LOG_LOST = Counter("nextclick_click_log_lost", "Clicks that Redis acknowledged, and has lost")
LOG_LAG_SECONDS = Gauge(
    "nextclick_click_log_lag_seconds", "Age of the oldest of these", multiprocess_mode="mostrecent"
)
COLD_ITEMS = Gauge(
    "nextclick_cold_items",
    "Items that a bundle has never seen, and answers by what the catalogue says of them",
    ["version"],
    multiprocess_mode="livemax",
)
CATALOGUE_ITEMS = Gauge(
    "nextclick_catalogue_items", "Items that a worker knows of the catalogue", multiprocess_mode="livemin"
)
CATALOGUE_BEHIND_SECONDS = Gauge(
    "nextclick_catalogue_behind_seconds",
    "Since a worker last knew all of the catalogue, of the one that is furthest behind",
    multiprocess_mode="livemax",
)
CATALOGUE_MISFITS = Counter(
    "nextclick_catalogue_misfits", "Values left out: stored when their attribute was of another kind"
)
ARTIFACTS_BEHIND_SECONDS = Gauge(
    "nextclick_artifacts_behind_seconds",
    "Since the object store of the artifacts last answered this machine",
    multiprocess_mode="livemax",
)
