"""What makes a click in the logs of several makes: columns, times, events, and what stands for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

FormatName = Literal[
    "csv",
    "yoochoose",
    "diginetica",
    "retailrocket",
    "otto",
    "rees46",
    "ga4",
    "snowplow",
    "segment",
    "sessions",
]
TIME_FORMATS = ("auto", "seconds", "milliseconds", "microseconds", "nanoseconds", "iso")
SEPARATORS = (",", "\t", ";", "|")  # of columns; others may be said in the file
FIELDS = ("session", "item", "time", "tick", "event")
COLUMN_OPTIONS = {
    "session": "--session-column, or visitors with --visitor-column",
    "item": "--item-column",
    "time": "--time-column",
    "event": "--event-column",
}
EVENT = "*event*"  # stands for the first of those that a file has
EVENT_COLUMNS = ("event_type", "event_name", "event", "type")
# What stands for nothing in logs as people export them: R, pandas, SQL, MySQL, BigQuery, GA4, JavaScript.
NOTHING = ("NA", "N/A", "NaN", "nan", "NULL", "null", "None", "\\N", "(null)", "(not set)", "undefined")

EXACT = 2**53  # from here on, whole numbers are not all floats
ROUNDED = r"[+-]?\d([.,]\d+)?[eE]\+\d+"  # a long number as a spreadsheet shows it: 1.23457E+12


@dataclass(frozen=True)
class LogFormat:
    """Which columns of a log make a click, and how they are read."""

    session: str
    item: str
    time: str
    time_format: str = "auto"  # one of `TIME_FORMATS`, or a pattern of strptime
    by_visitor: bool = False  # `session` names a visitor, whose clicks are yet to be cut into sessions
    by_day: bool = False  # times are whole days
    tick: str | None = None  # orders the clicks of a session that share a time
    event: str | None = None
    events: tuple[str, ...] = ()  # the values of `event` that are clicks
    header: tuple[str, ...] = ()  # names the columns of a file without a header line
    nothing: tuple[str, ...] = NOTHING  # what stands for no id, and for no time
    nobody_alone: bool = False  # a click of nobody is a session of its own, instead of none
    encoding: str = "auto"
    nested: str | None = None  # of a JSON line: the list of its clicks
    inner: tuple[str, ...] = ()  # the fields that are taken from within the list, not beside it
    visitor: str | None = None  # of a JSON line: whose session it is, where sessions are numbered by visitor
    name: str = "csv"

    @property
    def columns(self) -> dict[str, str]:
        """Field of the log table -> column of the file."""
        columns = {field: getattr(self, field) for field in FIELDS}
        return {field: column for field, column in columns.items() if column}

    def columns_among(self, names: Sequence[str]) -> dict[str, str]:
        """Field of the log table -> column of a file that has columns of these names."""
        columns = self.columns
        if self.event == EVENT:
            columns["event"] = next((name for name in EVENT_COLUMNS if name in names), EVENT_COLUMNS[0])
        return columns

    def naming(self, field: str) -> str:
        """How to say which column a field is in, as the end of a sentence; nothing for a known format."""
        option = COLUMN_OPTIONS.get(field) if self.name == "csv" else None
        return f"; name it with {option}" if option else ""


YOOCHOOSE = LogFormat(
    "session",
    "item",
    "timestamp",
    "iso",
    header=("session", "timestamp", "item", "category"),
    name="yoochoose",
)
DIGINETICA = LogFormat(
    "sessionId",
    "itemId",
    "eventdate",
    "iso",
    by_day=True,
    tick="timeframe",
    name="diginetica",
)
RETAILROCKET = LogFormat(
    "visitorid",
    "itemid",
    "timestamp",
    "milliseconds",
    by_visitor=True,
    event="event",
    events=("view",),
    name="retailrocket",
)
OTTO = LogFormat(
    "session",
    "aid",
    "ts",
    "milliseconds",
    event="type",
    nested="events",
    inner=("item", "time", "event"),
    name="otto",
)
REES46 = LogFormat("user_session", "product_id", "event_time", "iso", event="event_type", name="rees46")
# What another engine made of clicks: Parquet with a session a row, and its clicks in lists.
SESSIONS = LogFormat("session_id", "item_ids", "timestamps", tick="place", name="sessions")
# The tables that Google Analytics 4 exports to BigQuery, taken out as JSON lines or as Parquet.
GA4 = LogFormat(
    "event_params[ga_session_id].value.int_value",
    "item_id",
    "event_timestamp",
    "microseconds",
    event="event_name",
    events=("view_item",),
    nested="items",
    inner=("item",),
    visitor="user_pseudo_id",
    name="ga4",
)
# Calls of `track`, named as Segment's specification of a shop's events names them.
SEGMENT = LogFormat(
    "anonymousId",
    "properties.product_id",
    "timestamp",
    "iso",
    by_visitor=True,
    event="event",
    events=("Product Viewed", "Product Clicked"),
    name="segment",
)
SNOWPLOW_ECOMMERCE = "com_snowplowanalytics_snowplow_ecommerce"
# Enriched events, as they are (131 columns between tabs) or as the analytics SDKs make JSON of them: what the
# plugin for shops tracks, an action with its products.
SNOWPLOW = LogFormat(
    "domain_sessionid",
    "id",
    "derived_tstamp",
    "iso",
    event=f"unstruct_event_{SNOWPLOW_ECOMMERCE}_snowplow_ecommerce_action_1.type",
    events=("product_view",),
    nested=f"contexts_{SNOWPLOW_ECOMMERCE}_product_1",
    inner=("item",),
    name="snowplow",
)
_SNOWPLOW_COLUMNS = """
app_id platform etl_tstamp collector_tstamp dvce_created_tstamp event event_id txn_id name_tracker
v_tracker v_collector v_etl user_id user_ipaddress user_fingerprint domain_userid domain_sessionidx
network_userid geo_country geo_region geo_city geo_zipcode geo_latitude geo_longitude geo_region_name
ip_isp ip_organization ip_domain ip_netspeed page_url page_title page_referrer page_urlscheme
page_urlhost page_urlport page_urlpath page_urlquery page_urlfragment refr_urlscheme refr_urlhost
refr_urlport refr_urlpath refr_urlquery refr_urlfragment refr_medium refr_source refr_term mkt_medium
mkt_source mkt_term mkt_content mkt_campaign contexts se_category se_action se_label se_property se_value
unstruct_event tr_orderid tr_affiliation tr_total tr_tax tr_shipping tr_city tr_state tr_country
ti_orderid ti_sku ti_name ti_category ti_price ti_quantity pp_xoffset_min pp_xoffset_max pp_yoffset_min
pp_yoffset_max useragent br_name br_family br_version br_type br_renderengine br_lang br_features_pdf
br_features_flash br_features_java br_features_director br_features_quicktime br_features_realplayer
br_features_windowsmedia br_features_gears br_features_silverlight br_cookies br_colordepth br_viewwidth
br_viewheight os_name os_family os_manufacturer os_timezone dvce_type dvce_ismobile dvce_screenwidth
dvce_screenheight doc_charset doc_width doc_height tr_currency tr_total_base tr_tax_base tr_shipping_base
ti_currency ti_price_base base_currency geo_timezone mkt_clickid mkt_network etl_tags dvce_sent_tstamp
refr_domain_userid refr_dvce_tstamp derived_contexts domain_sessionid derived_tstamp event_vendor
event_name event_format event_version event_fingerprint true_tstamp
"""
SNOWPLOW_COLUMNS = tuple(_SNOWPLOW_COLUMNS.split())
