"""Writes tests/adk/v0_database.json: a small schema v0 database, and what google-adk's own migration makes of it.

Usage, from this folder, with make_v0.py's and migrate_reference.py's interpreters:
    TZ=UTC OLD/bin/python make_v0.py sqlite+aiosqlite:///v0.db 150
    TZ=UTC NEW/bin/python migrate_reference.py sqlite:///v0.db sqlite:///v1.db
    python make_v0_fixture.py v0.db v1.db ../adk/v0_database.json
"""

import json
import sqlite3
import sys


def rows(path, table, order):
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    return [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY {order}")]


def main():
    old, new, output = sys.argv[1:]
    tables = {"app_states": "app_name", "user_states": "app_name, user_id", "sessions": "app_name, user_id, id",
              "events": "app_name, user_id, session_id, timestamp, id"}
    v0 = {table: rows(old, table, order) for table, order in tables.items()}
    for event in v0["events"]:
        event["actions"] = event["actions"].hex()
    v1 = {table: rows(new, table, order) for table, order in tables.items()}
    with open(output, "w") as file:
        json.dump({"v0": v0, "v1": v1}, file, indent=0, ensure_ascii=False)
        file.write("\n")


if __name__ == "__main__":
    main()
