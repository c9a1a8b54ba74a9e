"""Pictures of the demo store's items: small SVG drawings, made here, each a data URI that needs no server.

One drawing a category; the brand gives the colours of the thing, the line those of what is behind it.
"""

from __future__ import annotations

from urllib.parse import quote

# Of the thing, by brand: its colour, the same in shadow, and a light one beside it.
COATS = (
    ("#d9573f", "#a83a28", "#ffd9a8"),
    ("#2f8f83", "#1d6a61", "#ffe08a"),
    ("#3b6fb6", "#284f88", "#ffd166"),
    ("#7a5aa6", "#573d7d", "#f7c6d9"),
    ("#4a5568", "#2d3646", "#f6ad55"),
    ("#c8862b", "#96611a", "#fff1c9"),
    ("#c94f7c", "#97335a", "#ffe3ec"),
    ("#5b8c3a", "#406826", "#f4e285"),
)
# Behind it, by line: the ground, and the disc on it.
SCENES = (
    ("#e9eef2", "#d5dfe7"),
    ("#e1eef3", "#c8e0ea"),
    ("#f3ece4", "#e8d9c7"),
    ("#eaf2e3", "#d4e6c5"),
    ("#e6f2f5", "#d0e8ee"),
    ("#f8e9e2", "#f2d3c5"),
    ("#eeecf5", "#dcd8ec"),
    ("#f6f0dc", "#ece0b6"),
    ("#e8f0fb", "#d1e1f7"),
    ("#efe9e6", "#ded3cd"),
)
# Classes: a the colour, b its shadow, c the light one, d dark parts, e metal; l, m, n are lines of d, b, c,
# p, q, k thick ones of a, b and metal.
DRAWINGS = {
    "Tents": "<path class='a' d='M50 25 15 80h70z'/><path class='b' d='m50 25 35 55H62z'/>"
    "<path class='c' d='M50 42 37 80h25z'/><path class='d' d='M50 42 44 80h18z'/>"
    "<path class='l' d='m50 26-4-8m4 8 4-8M15 80l-4 3m74-3 4 3'/>",
    "Sleeping bags": "<path class='a' d='M37 20q13-8 26 0 6 5 6 14l-4 44q-1 6-7 6H42q-6"
    " 0-7-6l-4-44q0-9 6-14z'/>"
    "<path class='b' d='M63 20q6 5 6 14l-4 44q-1 6-7 6h-6q6-30 2-66 5 0 9 2z'/>"
    "<ellipse class='d' cx='50' cy='31' rx='11' ry='9'/>"
    "<path class='c' d='M40 34q10-8 20 0-1 7-10 7t-10-7z'/>"
    "<path class='n' d='M33 50h34M34 62h32M36 74h28'/>",
    "Sleeping mats": "<path class='a' d='M30 26h42v50H30q-10-2-10-25t10-25z'/>"
    "<path class='b' d='M20 54q1 20 10 22h42V58z'/>"
    "<path class='c' d='M34 26h6q-7 25 0 50h-6q-7-25 0-50zm18 0h6q-7 25 0 50h-6q-7-25 0-50z'/>"
    "<ellipse class='b' cx='72' cy='51' rx='12' ry='25'/>"
    "<ellipse class='a' cx='72' cy='51' rx='9.5' ry='20'/>"
    "<ellipse class='b' cx='72' cy='51' rx='7' ry='15'/><ellipse class='a' cx='72' cy='51' rx='5' ry='10'/>"
    "<ellipse class='d' cx='72' cy='51' rx='2.5' ry='5'/>",
    "Lanterns": "<path class='l' d='M36 34q0-18 14-18t14 18'/><path class='d' d='M38 30h24l3 8H35z'/>"
    "<path class='c' d='M37 38h26v30H37z'/><circle cx='50' cy='53' r='9' fill='#fff' opacity='.8'/>"
    "<path class='m' d='M37 38v30m26-30v30m-13-30v6'/><path class='a' d='M34 68h32l4 14H30z'/>"
    "<path class='b' d='M58 68h8l4 14H60z'/>",
    "Stoves": "<path class='l' d='M28 40h44M34 40v12m32-12v12'/>"
    "<path class='c' d='M50 22q9 9 5 17H45q-5-8 5-17z'/>"
    "<path fill='#f08a3c' d='M50 29q5 6 3 10h-6q-2-4 3-10z'/><path class='e' d='M32 50h36v6H32z'/>"
    "<path class='a' d='M36 56h28q8 6 8 16 0 10-8 10H36q-8 0-8-10 0-10 8-16z'/>"
    "<path class='b' d='M58 56h6q8 6 8 16 0 10-8 10h-6q6-12 0-26z'/><path class='c' d='M36 64h14v9H36z'/>",
    "Cookware": "<path class='l' d='M69 50h20'/><path class='a' d='M25 44h46v26q0 10-10 10H35q-10 0-10-10z'/>"
    "<path class='b' d='M59 44h12v26q0 10-10 10h-6q6-16 4-36z'/><path class='e' d='M22 40h52v6H22z'/>"
    "<path class='c' d='M28 40q20-15 40 0z'/><circle class='d' cx='48' cy='30' r='3.5'/>"
    "<path class='n' d='M33 52v16'/>",
    "Bottles": "<path class='d' d='M43 14h14v11H43z'/><path class='e' d='M45 25h10v5H45z'/>"
    "<path class='a' d='M45 29h10q9 5 9 15v34q0 6-6 6H42q-6 0-6-6V44q0-10 9-15z'/>"
    "<path class='b' d='M55 29q9 5 9 15v34q0 6-6 6h-5q5-28 2-55z'/><path class='c' d='M36 50h28v17H36z'/>"
    "<path class='l' d='m43 62 6-8 4 5 2-2 4 5z'/>",
    "Day packs": "<path class='l' d='M43 24q0-8 7-8t7 8'/>"
    "<path class='a' d='M30 44q0-22 20-22t20 22v32q0 7-7 7H37q-7 0-7-7z'/>"
    "<path class='b' d='M62 26q8 6 8 18v32q0 7-7 7h-6q8-26 5-57z'/>"
    "<path class='c' d='M36 56h28v16q0 5-5 5H41q-5 0-5-5z'/><path class='m' d='M36 62h28'/>"
    "<path class='m' d='M34 44q16 6 32 0'/><path class='l' d='M50 62v5'/>",
    "Trekking packs": "<path class='c' d='M34 20h32q5 0 5 6t-5 6H34q-5 0-5-6t5-6z'/>"
    "<path class='a' d='M35 32h30q6 18 4 44-1 7-7 7H38q-6 0-7-7-2-26 4-44z'/>"
    "<path class='b' d='M58 32h7q6 18 4 44-1 7-7 7h-7q6-24 3-51z'/>"
    "<path class='b' d='M27 52q-5 10-1 22h6V50zm46 0q5 10 1 22h-6V50z'/>"
    "<path class='n' d='M42 33v26m16-26v26'/><path class='l' d='M38 60h24M29 26h42'/>",
    "Trekking poles": "<path class='l' d='M36 30 26 84m38-54 10 54'/>"
    "<path d='M36 32 31 58m33-26 5 26' stroke-width='4' class='p'/>"
    "<path class='d' d='m33 14 8 2-3 18-5-1zm34 0-8 2 3 18 5-1z'/>"
    "<path class='n' d='M34 22q-9 6 0 12m32-12q9 6 0 12'/>"
    "<ellipse class='b' cx='28' cy='75' rx='7' ry='2.5'/><ellipse class='b' cx='72' cy='75' rx='7'"
    " ry='2.5'/>",
    "Hiking boots": "<path class='a' d='M33 22h23v22q3 8 14 11 12 3 12 14v6H31q-2-14 0-24z'/>"
    "<path class='b' d='M31 51q8 8 24 6 14 4 27 11v7H31q-2-12 0-24z'/><path class='c' d='M31 20h27v9H31z'/>"
    "<path class='d' d='M29 75h54v4q0 4-4 4h-6l-2-3-3 3H33q-4 0-4-4z'/>"
    "<path class='n' d='m46 35 11-1M46 42l12-1M49 50l13-3'/>",
    "Trail shoes": "<path class='a' d='M18 46q6 3 14-3 6 0 10 4 10 9 26 11 16 2 17 14H17q-3-14 1-26z'/>"
    "<path class='b' d='M17 64q20 6 40-4 24 0 28 12H17z'/>"
    "<path class='c' d='M18 46q6 3 14-3l6 7q-8 9-21 6z'/>"
    "<path class='d' d='M14 71h73q2 7-4 8H20q-6 0-6-8z'/><path class='n' d='m42 53 7-5m-1 9 7-5m0 8 6-5'/>"
    "<path class='l' d='M20 79v2m10-2v2m10-2v2m10-2v2m10-2v2m10-2v2'/>",
    "Socks": "<path class='b' d='M52 20h18v32q0 6-5 10L50 77q-6 6-13 1-6-6-1-12l16-14z'/>"
    "<path class='a' d='M38 17h18v33q0 6-5 10L36 75q-6 6-13 1-6-6-1-12l16-14z'/>"
    "<path class='c' d='M37 16h20v9H37z'/>"
    "<path class='c' d='M20 68q4-6 8-8l10 13-3 3q-6 5-12 0-4-3-3-8z'/>"
    "<path class='n' d='M38 32h18M38 39h18'/>",
    "Rain jackets": "<path class='b' d='m36 30-20 12 6 34 9-1V44l5 6zm28 0 20 12-6 34-9-1V44l-5 6z'/>"
    "<path class='a' d='M36 28h28l6 10v44H30V38z'/><path class='b' d='M38 29q0-14 12-14t12 14L50 39z'/>"
    "<path class='d' d='M43 28q1-7 7-7t7 7l-7 6z'/><path class='l' d='M50 35v46'/>"
    "<path class='n' d='m36 60 8 3m20-3-8 3M36 46h7'/>",
    "Rain trousers": "<path class='a' d='M34 18h32l6 64H56l-6-42-6 42H28z'/>"
    "<path class='b' d='M58 18h8l6 64H62z'/>"
    "<path class='d' d='M34 17h32l1 7H33z'/><path class='n' d='M42 26v8M58 26v8M30 70h15m10 0h15'/>"
    "<path class='m' d='M50 25v15'/>",
    "Fleeces": "<path class='b' d='M35 28 16 42l5 34 10-1V46zm30 0 19 14-5 34-10-1V46z'/>"
    "<path class='a' d='M35 27h30l5 12v43H30V39z'/><path class='b' d='M30 74h40v8H30z'/>"
    "<path class='c' d='M40 18h20l4 12H36z'/><path class='l' d='M50 19v30'/>"
    "<path class='c' d='M55 46h11v11H55z'/>"
    "<path class='m' d='M55 50h11'/><circle class='d' cx='50' cy='50' r='1.8'/>",
    "Base layers": "<path class='b' d='M37 24 18 38l4 38 9-1V46zm26 0 19 14-4 38-9-1V46z'/>"
    "<path class='a' d='M37 24q13 9 26 0l6 12v46H31V36z'/>"
    "<path class='c' d='M37 24q13 9 26 0l2 4q-15 10-30 0z'/>"
    "<path class='n' d='M31 52h38M31 58h38M31 64h38'/><path class='m' d='M31 76h38'/>",
    "Running vests": "<path class='a' d='M34 18h9q1 20 7 20t7-20h9q1 20 6 28v32q0 4-4 4H32q-4"
    " 0-4-4V46q5-8 6-28z'/>"
    "<path class='b' d='M57 18h9q1 20 6 28v32q0 4-4 4h-9q4-20-2-46z'/>"
    "<path class='l' d='M50 38v44M40 50h20'/>"
    "<path class='c' d='M31 58h13v19H31zm25 0h13v19H56z'/><path class='e' d='M35 42h7v14h-7zm23 0h7v14h-7z'/>"
    "<path class='d' d='M36 37h5v6h-5zm23 0h5v6h-5z'/>",
    "Headlamps": "<path d='M16 52q0-24 34-24t34 24' class='p' stroke-width='9'/>"
    "<path d='M50 29V18' class='p' stroke-width='7'/>"
    "<path class='n' d='M19 46q6-13 31-13t31 13'/>"
    "<path class='d' d='M35 42h30q5 0 5 5v20q0 5-5 5H35q-5 0-5-5V47q0-5 5-5z'/>"
    "<circle class='e' cx='50' cy='57' r='12'/><circle class='c' cx='50' cy='57' r='9'/>"
    "<circle cx='47' cy='54' r='3' fill='#fff'/><path class='n' d='m38 76-4 6m16-5v7m12-8 4 6'/>",
    "Climbing shoes": "<path class='a' d='M24 34q10-9 18 0 6 10 22 16 22 8 24 24H40q-12 0-18-10-6-16 2-30z'/>"
    "<path class='b' d='M21 52q14 16 42 10 20 2 25 12H40q-12 0-18-10-2-6-1-12z'/>"
    "<path class='d' d='M22 64q6 8 18 8h48q2 6-4 6H38q-14 0-16-14z'/>"
    "<path class='c' d='m44 38 10-4 8 12-9 4z'/>"
    "<path class='c' d='m57 47 10-3 7 10-8 3z'/><path class='l' d='M24 34q-6-2-6-9'/>",
    "Harnesses": "<ellipse class='q' stroke-width='6' cx='50' cy='32' rx='31' ry='11'/>"
    "<ellipse class='q' stroke-width='5' cx='34' cy='66' rx='14' ry='9'/>"
    "<ellipse class='q' stroke-width='5' cx='66' cy='66' rx='14' ry='9'/>"
    "<path class='m' stroke-width='3' d='m24 42-2 22m54-22 2 22'/>"
    "<path class='p' stroke-width='9' d='M19 34q4 12 31 12t31-12'/><path class='n' d='M22 37q6 9 28 9t28-9'/>"
    "<path class='p' stroke-width='8' d='M20 66q2 11 14 11t14-11m4 0q2 11 14 11t14-11'/>"
    "<path class='m' stroke-width='4' d='m48 64 2-4 2 4'/><path class='k' stroke-width='4' d='M50 48v14'/>"
    "<path class='e' d='M38 40h9v9h-9z'/><path class='l' d='M66 50q4 8 10-3'/>",
    "Ropes": "<ellipse class='p' stroke-width='7' cx='50' cy='50' rx='20' ry='31'/>"
    "<ellipse class='q' stroke-width='6' cx='44' cy='51' rx='20' ry='30'/>"
    "<ellipse class='p' stroke-width='6' cx='56' cy='51' rx='20' ry='30'/>"
    "<ellipse class='n' stroke-dasharray='3 5' cx='56' cy='51' rx='20' ry='30'/>"
    "<path class='q' stroke-width='6' d='M26 42h48M26 48h48M26 54h48'/>"
    "<path class='p' stroke-width='6' d='M66 76q2 10 16 8'/>"
    "<path class='n' stroke-dasharray='3 4' d='M27 48h46'/>",
    "Quickdraws": "<path class='q' stroke-width='6' d='M42 14h12q9 0 8 9l-3 15q-2 6-9"
    " 6t-9-6l-4-17q-1-7 5-7z'/>"
    "<path class='l' stroke-width='3' d='m37 20 5 20'/>"
    "<path class='k' stroke-width='6' d='M42 88h12q9 0 8-9l-3-13q-2-6-9-6t-9 6l-4 15q-1 7 5 7z'/>"
    "<path class='l' stroke-width='3' d='m37 82 5-18'/>"
    "<path class='a' d='M45 38h10q3 0 3 4v20q0 4-3 4H45q-3 0-3-4V42q0-4 3-4z'/>"
    "<path class='b' d='M52 38h3q3 0 3 4v20q0 4-3 4h-3z'/><path class='n' d='M46 44v16'/>",
    "Chalk bags": "<path class='l' d='M18 32q32-20 64 0'/>"
    "<path class='a' d='M30 36h40l4 36q0 12-24 12T26 72z'/>"
    "<path class='b' d='M60 36h10l4 36q0 9-14 11 6-22 0-47z'/>"
    "<ellipse class='c' cx='50' cy='36' rx='21' ry='8'/>"
    "<ellipse cx='50' cy='37' rx='15' ry='5' fill='#fff'/><path class='n' d='M29 56q21 9 43 0'/>"
    "<path class='m' d='m44 70 6-8 6 8z'/><circle class='d' cx='74' cy='46' r='3'/>",
}


def picture(category: str, brand: int, line: int, number: int) -> str:
    """A data URI; items of odd `number` look the other way."""
    (coat, shade, light), (ground, disc) = COATS[brand % len(COATS)], SCENES[line % len(SCENES)]
    mirror = " transform='matrix(-1 0 0 1 100 0)'" if number % 2 else ""
    svg = (
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 100 100'><style>"
        f".a{{fill:{coat}}}.b{{fill:{shade}}}.c{{fill:{light}}}.d{{fill:#2b3038}}.e{{fill:#c3cad2}}"
        ".l,.m,.n,.p,.q,.k{fill:none;stroke-linecap:round;stroke-linejoin:round}"
        f".l{{stroke:#2b3038;stroke-width:2}}.m{{stroke:{shade};stroke-width:2}}"
        f".n{{stroke:{light};stroke-width:2}}.p{{stroke:{coat}}}.q{{stroke:{shade}}}.k{{stroke:#9aa4af}}"
        f"</style><path fill='{ground}' d='M0 0h100v100H0z'/><circle cx='50' cy='48' r='42' fill='{disc}'/>"
        f"<ellipse cx='50' cy='86' rx='34' ry='4' opacity='.13'/><g{mirror}>{DRAWINGS[category]}</g></svg>"
    )
    return "data:image/svg+xml," + quote(svg, safe="=/:;,.()-+*!~")
