# The cache outside the repository: $WALKEEP_CACHE, and what keeps it whole when two scripts fill it at once.
# shellcheck shell=bash

# Where everything that is not an npm package goes. PostgreSQL refuses to run as root, so as root its programs have
# to lie where an unprivileged user can reach them, and root's home is closed to others.
if [ -z "${WALKEEP_CACHE:-}" ]; then
  if [ "$(id -u)" = 0 ]; then
    WALKEEP_CACHE=/var/cache/walkeep
  else
    WALKEEP_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/walkeep
  fi
fi
export WALKEEP_CACHE

open_cache() {
  (umask 022 && mkdir -p "$WALKEEP_CACHE/locks" "$WALKEEP_CACHE/logs") ||
    fail "The cache directory $WALKEEP_CACHE can't be written. Set WALKEEP_CACHE to one that can."
}

# install_once NAME COMMAND...   makes $WALKEEP_CACHE/NAME, unless it is there. COMMAND gets a new directory to fill;
# only when it succeeds does that become NAME, in one rename, so that NAME is whole or absent. Side by side with
# another script, the second waits and finds it made.
install_once() {
  local name=$1
  shift
  [ -d "$WALKEEP_CACHE/$name" ] && return 0
  (
    exec 9>"$WALKEEP_CACHE/locks/$name"
    flock -n 9 || { say "  $name: another script is installing it, waiting …"; flock 9; }
    [ -d "$WALKEEP_CACHE/$name" ] && exit 0
    umask 022
    making=$WALKEEP_CACHE/.making-$name
    rm -rf "$making" && mkdir -p "$making" || exit 1
    "$@" "$making" 9>&- || { rm -rf "$making"; exit 1; }
    mv "$making" "$WALKEEP_CACHE/$name"
  )
}

# require_checksum FILE SHA256
require_checksum() {
  local found
  found=$(sha256sum "$1" | cut -d ' ' -f 1)
  [ "$found" = "$2" ] && return 0
  echo "$(basename "$1") is not the file that was pinned: sha256 is $found, expected $2 (scripts/versions)"
  rm -f "$1"
  return 1
}
