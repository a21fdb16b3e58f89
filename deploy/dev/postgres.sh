#!/usr/bin/env bash
# A PostgreSQL of a test's own: Debian's, in a folder of its own, at a Unix socket there. Sourced, never run.

POSTGRES_PID=

# It refuses to run as root.
AS_POSTGRES=()
[[ $EUID -ne 0 ]] || AS_POSTGRES=(setpriv --reuid postgres --regid postgres --init-groups --)

# start_postgres FOLDER [ADDRESS COMMAND...]: sets POSTGRES_URL. Everybody may pass through the folder: it holds nothing but
# tests' data. What is there already of an earlier one is kept. With an ADDRESS it listens there, too, for those who have a
# password; COMMAND is what starts it, such as in a network.
start_postgres() {
  local folder=$1 address=${2:-} bin
  bin=$(find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1)
  [[ -x $bin/postgres ]] || { echo "there is no PostgreSQL: make deps" >&2; return 1; }
  chmod 755 "$folder"
  if [[ ! -d $folder/postgres ]]; then
    rm -rf "$folder/postgres.new"
    mkdir "$folder/postgres.new"
    [[ $EUID -ne 0 ]] || chown postgres: "$folder/postgres.new"
    "${AS_POSTGRES[@]}" "$bin/initdb" -D "$folder/postgres.new" -U postgres -A trust -E UTF8 --locale C.UTF-8 --no-sync \
      >"$folder/initdb.log" 2>&1 || { cat "$folder/initdb.log" >&2; return 1; }
    [[ -z $address ]] || echo 'host all all all scram-sha-256' >>"$folder/postgres.new/pg_hba.conf"
    mv "$folder/postgres.new" "$folder/postgres"
  fi
  # The kernel ends it if we are killed; its own processes end with it. Tests kill those who speak with it, never
  # the machine, so nothing needs to reach the disk. POSTGRES_FSYNC=on for those who measure.
  "${@:3}" "${AS_POSTGRES[@]}" setpriv --pdeathsig KILL -- "$bin/postgres" -D "$folder/postgres" -k "$folder/postgres" \
    -c listen_addresses="$address" -c max_connections=300 -c fsync="${POSTGRES_FSYNC:-off}" >"$folder/postgres.log" 2>&1 &
  POSTGRES_PID=$! POSTGRES_DATA=$folder/postgres
  local host=$folder/postgres
  until "$bin/pg_isready" -q -h "$host" -U postgres; do
    kill -0 "$POSTGRES_PID" 2>/dev/null || { echo "PostgreSQL doesn't start" >&2; return 1; }
    sleep 0.1
  done
  export POSTGRES_URL="postgres://postgres@localhost/postgres?host=$host"
}

stop_postgres() {
  [[ -n $POSTGRES_PID ]] || return 0
  # COMMAND may be a sudo, which is root's and passes no signal on; its own process says which it is.
  kill -QUIT "$(head -n 1 "$POSTGRES_DATA/postmaster.pid" 2>/dev/null || echo "$POSTGRES_PID")" 2>/dev/null || true
  wait "$POSTGRES_PID" 2>/dev/null || true
}
