#!/bin/sh
# Lets the replica of this compose file stream from the primary.
set -e
echo "host replication postgres all scram-sha-256" >>"$PGDATA/pg_hba.conf"
