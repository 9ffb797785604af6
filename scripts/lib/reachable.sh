# PostgreSQL refuses to run as root, and the user it runs as instead has to reach the walkeep that it calls.
# shellcheck shell=bash

# The user that PostgreSQL runs as when we are root.
unprivileged_user() {
  local user
  for user in postgres nobody; do id -u "$user" >/dev/null 2>&1 && echo "$user" && return 0; done
  return 1
}

# run_where_reachable ROOT SCRIPT ARGUMENTS...   does nothing where the clone can be read by that user. Where it can't
# (it lies below /root, or a mktemp -d), runs the script in a copy that can, ends with its exit code, and removes the
# copy: the permissions of other people's directories are not ours to change.
run_where_reachable() {
  local root=$1 script=$2 user copy
  shift 2
  [ "$(id -u)" = 0 ] || return 0
  user=$(unprivileged_user) && command -v setpriv >/dev/null || return 0
  setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups \
    sh -c 'test -r "$1/scripts/walkeep" && test -x "$1/scripts/lib" && test -r "$1/package.json"' - "$root" && return 0
  copy=$(mktemp -d /tmp/walkeep-clone-XXXXXX) || exit 1
  say "The user $user can't reach $root, and PostgreSQL, which refuses to run as root, runs as $user: going on in a copy, $copy"
  trap 'rm -rf "$copy"' EXIT
  cp -a "$root/." "$copy/" && chmod 755 "$copy" && chmod -R a+rX "$copy" || exit 1
  "$copy/$script" "$@"
  exit $?
}
