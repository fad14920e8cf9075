"""Migrates a schema v0 database with google-adk's own migration.

Usage: python migrate_reference.py SRC DST [--unsafe]

SRC and DST are SQLAlchemy URLs; google-adk drops the driver from them and
takes SQLAlchemy's default one, which is psycopg (psycopg2 before SQLAlchemy
2.1) for PostgreSQL and mysqlclient for MySQL; PyMySQL stands in for the
latter here. The migration reads times of events as local, so run it with the
TZ that the database was written with.
"""

import argparse
import logging

from google.adk.sessions.migration import migration_runner

try:
    import MySQLdb  # noqa: F401
except ImportError:
    try:
        import pymysql

        # SQLAlchemy asks for a version that PyMySQL does not claim to be.
        pymysql.version_info = (2, 2, 7, "final", 0)
        pymysql.install_as_MySQLdb()
    except ImportError:
        pass


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("destination")
    parser.add_argument("--unsafe", action="store_true",
                        help="load pickles of any class")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    migration_runner.upgrade(arguments.source, arguments.destination,
                             allow_unsafe_unpickling=arguments.unsafe)


if __name__ == "__main__":
    main()
