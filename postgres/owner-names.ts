import { readFileSync } from 'node:fs';

/** The names behind numbers, for tars: a restore on another host can give files to the user of the same name. */
export interface OwnerNames {
  user(uid: number): string | undefined;
  group(gid: number): string | undefined;
}

/** Names from this host's own files; one that only a directory service knows stays a number. */
export function readOwnerNames(): OwnerNames {
  const users = readNames('/etc/passwd');
  const groups = readNames('/etc/group');
  return { user: (uid) => users.get(uid), group: (gid) => groups.get(gid) };
}

function readNames(file: string): Map<number, string> {
  const names = new Map<number, string>();
  for (const line of readIfThere(file).split('\n')) {
    const [name, , id] = line.split(':');
    // The first name of a number counts, as for ls.
    if (name && id && !names.has(Number(id))) names.set(Number(id), name);
  }
  return names;
}

function readIfThere(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
