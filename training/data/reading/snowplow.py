"""Snowplow's enriched events, 131 columns between tabs, made the JSON that its SDKs make of them."""

from __future__ import annotations

from training.data.reading.presets import SNOWPLOW, SNOWPLOW_COLUMNS, SNOWPLOW_ECOMMERCE

# Of the events of Snowplow's plugin for shops.
MACRO = f"""
    CREATE OR REPLACE TEMP MACRO snowplow_object(session, derived, collector, contexts, event) AS json_object(
        'domain_sessionid', nullif(session, ''),
        'derived_tstamp', coalesce(nullif(derived, ''), collector),
        '{SNOWPLOW.nested}', CASE WHEN json_valid(contexts) THEN [
            json_extract(context, '$.data') FOR context IN json_extract(contexts, '$.data[*]')
            IF json_extract_string(context, '$.schema')
                LIKE 'iglu:com.snowplowanalytics.snowplow.ecommerce/product/%'
        ] END,
        'unstruct_event_{SNOWPLOW_ECOMMERCE}_snowplow_ecommerce_action_1', CASE
            WHEN json_valid(event) AND json_extract_string(event, '$.data.schema')
                LIKE 'iglu:com.snowplowanalytics.snowplow.ecommerce/snowplow_ecommerce_action/%'
            THEN json_extract(event, '$.data.data')
        END
    )::VARCHAR
"""


def snowplow_object(line: str) -> str:
    """What is asked for of an enriched event, named as in the SDKs' JSON; other lines stay as they are."""
    fields = f"string_split({line}, '\t')"
    field = {name: f"{fields}[{place}]" for place, name in enumerate(SNOWPLOW_COLUMNS, start=1)}
    asked = ("domain_sessionid", "derived_tstamp", "collector_tstamp", "contexts", "unstruct_event")
    made = f"snowplow_object({', '.join(field[name] for name in asked)})"
    return f"CASE WHEN len({fields}) = {len(SNOWPLOW_COLUMNS)} THEN {made} ELSE {line} END"
