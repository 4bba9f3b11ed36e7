#!/usr/bin/env python3
"""Japan's public holidays, one date a line, from packages that share no code with ours.

    python3 -m venv venv && venv/bin/pip install holidays==0.109 astronomy-engine==2.1.19
    venv/bin/python oracle.py > jp_holidays_1955_2099.csv    # the committed list
    venv/bin/python oracle.py --check-equinoxes              # the same equinoxes by ephemeris
"""
import datetime
import sys

YEARS = range(1955, 2100)
JST = datetime.timedelta(hours=9)


def public_holidays():
    import holidays

    # Bank holidays (2 and 3 January, 31 December) are a category of their own, left out here.
    japan = holidays.country_holidays("JP", years=YEARS, categories=(holidays.PUBLIC,))
    return sorted(day for day in japan if day.year in YEARS)


def check_equinoxes():
    import astronomy

    listed = set(public_holidays())
    margins = []
    for year in YEARS:
        seasons = astronomy.Seasons(year)
        for instant in (seasons.mar_equinox, seasons.sep_equinox):
            local = instant.Utc() + JST
            if local.date() not in listed:
                sys.exit(f"equinox {local} is on no listed holiday")
            midnight = datetime.datetime.combine(local.date(), datetime.time())
            minutes = (local - midnight).total_seconds() / 60
            margins.append((min(minutes, 1440 - minutes), local))
    print(f"{len(margins)} equinoxes agree; nearest to midnight, in minutes:")
    for minutes, local in sorted(margins)[:3]:
        print(f"  {minutes:.1f}  {local:%Y-%m-%d %H:%M:%S}")


if __name__ == "__main__":
    if "--check-equinoxes" in sys.argv:
        check_equinoxes()
    else:
        print("\n".join(day.isoformat() for day in public_holidays()))
