// What `walkeep wal-fetch` does for a directory repository, as a program of the tests: fetches by the plan that a
// restore left in the data directory it runs in. Arguments: the store's directory, the server, %f, %p.
import { existsSync } from 'node:fs';
import { fetchExitCode, fetchWal } from '../../operations/fetch-wal.ts';
import { readRecoveryFile } from '../../operations/recovery-file.ts';
import { createRepository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';

const [directory = '', server = '', fileName = '', destination = ''] = process.argv.slice(2);
const isStandby = existsSync('standby.signal');
try {
  const recovery = await readRecoveryFile('.');
  const repository = createRepository(openStore({ kind: 'file', directory }), server);
  const ports = { repository: async () => repository, plan: recovery?.plan, deadlineMs: 3_000 };
  const { outcome } = await fetchWal(ports, fileName, destination, { signal: new AbortController().signal });
  console.error(`fetch ${fileName}: ${outcome}`);
  process.exit(fetchExitCode(outcome, isStandby));
} catch (error) {
  console.error(`fetch ${fileName}:`, error instanceof Error ? error.message : error);
  process.exit(fetchExitCode('failed', isStandby));
}
