# Talking to the person who runs a script. Everything here goes to standard error: standard output is for results.
# shellcheck shell=bash

say() { printf '%s\n' "$*" >&2; }

# Ends the script with what went wrong, and what to do about it.
fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

# step TITLE LOG COMMAND...   runs a command that takes a while: says so, how long it took, and where it wrote.
step() {
  local title=$1 log=$2 began=$SECONDS
  shift 2
  printf '  %s … ' "$title" >&2
  mkdir -p "$(dirname "$log")"
  if "$@" >"$log" 2>&1; then
    printf 'done in %d s\n' $((SECONDS - began)) >&2
  else
    printf 'FAILED after %d s. The end of %s:\n' $((SECONDS - began)) "$log" >&2
    tail -n 20 "$log" | sed 's/^/    /' >&2
    return 1
  fi
}
