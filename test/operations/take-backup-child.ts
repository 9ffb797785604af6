/**
 * A backup in a process of its own, for tests that kill it. Argument: JSON of `ChildOrder`. It writes the copied backup
 * to `copiedFile` as soon as there is one.
 */
import { writeFileSync } from 'node:fs';
import {
  confirmBackup,
  copyBackup,
  recordBackup,
  type TakeBackupInput,
} from '../../operations/take-backup.ts';
import { connectionFromEnvironment } from '../../postgres/connection.ts';
import { createRepository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';

export interface ChildOrder {
  readonly directory: string;
  readonly server: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly input: TakeBackupInput;
  readonly copiedFile: string;
}

const order = JSON.parse(process.argv[2] as string) as ChildOrder;
const store = { kind: 'file', directory: order.directory } as const;
const repository = createRepository(openStore(store), order.server);
const ports = {
  postgres: connectionFromEnvironment(order.environment),
  store,
  repository: () => Promise.resolve(repository),
  walkeepVersion: '0.0.0-test',
};
const { signal } = new AbortController();
const copied = await copyBackup(ports, order.input, { signal });
writeFileSync(order.copiedFile, JSON.stringify(copied));
await confirmBackup(ports, copied, { signal, deadlineMs: 30_000 });
await recordBackup(ports, copied, { signal });
