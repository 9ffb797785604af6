/** A verification in a process of its own, for tests that end it. Argument: JSON of `VerifyOrder`. It prints the outcome. */
import { recoveryCommandLine } from '../../operations/wal-command-lines.ts';
import { RECOVERY_FILE } from '../../operations/recovery-file.ts';
import { verifyBackup, type VerifyRequest } from '../../operations/verify-backup.ts';
import { createRepository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';

export interface VerifyOrder {
  readonly directory: string;
  readonly server: string;
  readonly state: string;
  readonly scratchRoot: string;
  readonly binDirectory: string;
  readonly request: VerifyRequest;
}

const order = JSON.parse(process.argv[2] as string) as VerifyOrder;
const store = { kind: 'file', directory: order.directory } as const;
const repository = createRepository(openStore(store), order.server);
const stop = new AbortController();
process.once('SIGTERM', () => stop.abort(new Error('asked to end')));
const outcome = await verifyBackup(
  {
    repository,
    store,
    reference: {
      namespace: 'default',
      serverName: order.server,
      barmanObjectStore: { destinationPath: `file://${order.directory}` },
    },
    restoreCommand: (socketPath) =>
      recoveryCommandLine({ recoveryFile: RECOVERY_FILE, stateDirectory: order.state, socketPath }),
    scratchRoot: order.scratchRoot,
    binDirectory: order.binDirectory,
    instance: 'child',
    walkeepVersion: '0.0.0-test',
  },
  order.request,
  { signal: stop.signal, onProgress: ({ phase }) => process.stderr.write(`${phase}\n`) },
);
process.stdout.write(JSON.stringify(outcome));
