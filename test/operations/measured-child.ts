/**
 * A backup or a restore in a process of its own, for whoever measures it. Standard input: JSON of `MeasuredOrder`.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { planFromRepository } from '../../operations/recovery-plan.ts';
import { restore } from '../../operations/restore.ts';
import {
  confirmBackup,
  copyBackup,
  recordBackup,
  type TakeBackupInput,
} from '../../operations/take-backup.ts';
import { neededSegments } from '../../operations/confirm-backup.ts';
import { connectionFromEnvironment } from '../../postgres/connection.ts';
import { switchWal } from '../../postgres/switch-wal.ts';
import { createRepository } from '../../repository/repository.ts';
import { putWal } from '../../repository/wal.ts';
import { openStore } from '../../stores/open-store.ts';
import { fromPlain, type PlainStoreConfig } from '../../stores/store-config.ts';

export interface MeasuredOrder {
  readonly store: PlainStoreConfig;
  /** The folder of the repository. */
  readonly server: string;
  readonly backup?: {
    readonly environment: Readonly<Record<string, string>>;
    readonly input: TakeBackupInput;
  };
  readonly restore?: { readonly targetDirectory: string; readonly jobs: number };
}

const order = JSON.parse(await text(process.stdin)) as MeasuredOrder;
const store = fromPlain(order.store);
const repository = createRepository(openStore(store), order.server);
const { signal } = new AbortController();
if (order.backup) await takeBackup(order.backup);
if (order.restore) {
  const plan = await planFromRepository(
    repository,
    { target: { targetImmediate: true, backupID: 'newest' }, readsWal: false },
    { signal },
  );
  const reference = { namespace: 'default', serverName: order.server, barmanObjectStore: {} };
  await restore(
    { repository, store, restoreCommand: 'false', reference },
    { plan, ...order.restore },
    { signal },
  );
}
await repository.close();

/** Of a server that archives nothing: what the backup needs of its WAL is put there from here. */
async function takeBackup({ environment, input }: NonNullable<MeasuredOrder['backup']>): Promise<void> {
  const postgres = connectionFromEnvironment(environment);
  const ports = {
    postgres,
    store,
    repository: () => Promise.resolve(repository),
    walkeepVersion: '0.0.0-test',
  };
  const copied = await copyBackup(ports, input, { signal });
  await switchWal(postgres, signal);
  for (const segment of neededSegments(copied)) {
    const bytes = readFileSync(join(input.pgdata, 'pg_wal', segment));
    await putWal(repository, segment, bytes, 'none', { signal });
  }
  await confirmBackup(ports, copied, { signal, deadlineMs: 60_000 });
  await recordBackup(ports, copied, { signal });
}
