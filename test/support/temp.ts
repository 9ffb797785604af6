import { chmodSync, mkdtempSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onCleanUp } from './cleanup.ts';
import { giveToServerUser } from './server-user.ts';

/**
 * A new directory, removed when the tests of this file are over (WALKEEP_KEEP_TEMP=1 keeps it for a look). It belongs
 * to the user that PostgreSQL runs as, and its path is short: a unix socket's may have 107 bytes.
 */
export function makeTempDir(purpose = 'test'): string {
  const directory = mkdtempSync(join(tmpdir(), `wk-${purpose.slice(0, 12)}-`));
  // All may pass through, so that root and the server's user reach what the other made; what matters is closed below.
  chmodSync(directory, 0o755);
  giveToServerUser(directory);
  if (process.env['WALKEEP_KEEP_TEMP'] === undefined) {
    onCleanUp(() => rm(directory, { recursive: true, force: true, maxRetries: 3 }));
  }
  return directory;
}
