import { chownSync, readFileSync } from 'node:fs';

/** An account of this host. */
export interface ServerUser {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

/**
 * The account that PostgreSQL and what runs beside it use: PostgreSQL refuses to run as root, so under root it is
 * `postgres`, or else `nobody`. `undefined` means: the one who runs the tests.
 */
export const serverUser: ServerUser | undefined = process.getuid?.() === 0 ? unprivilegedUser() : undefined;

function unprivilegedUser(): ServerUser {
  const accounts = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .map((line) => line.split(':'));
  for (const wanted of ['postgres', 'nobody']) {
    const account = accounts.find(([name]) => name === wanted);
    if (account) return { name: wanted, uid: Number(account[2]), gid: Number(account[3]) };
  }
  throw new Error('PostgreSQL refuses to run as root, and this host has neither a user postgres nor nobody');
}

/** Gives a file or directory to the server's user, where that is another than ours. */
export function giveToServerUser(path: string): void {
  if (serverUser) chownSync(path, serverUser.uid, serverUser.gid);
}
