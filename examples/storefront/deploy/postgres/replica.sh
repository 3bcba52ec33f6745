#!/bin/sh
# Copies the primary the first time, then follows it.
set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	chmod 700 "$PGDATA"
	pg_basebackup -h primary -U postgres -D "$PGDATA" -R -X stream -C -S replica
fi
exec postgres -c hot_standby_feedback=on
