import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { RecoveryTarget } from '../../core/recovery.ts';
import { planFromRepository, type PlanRequest } from '../../operations/recovery-plan.ts';
import {
  restore,
  type RestoredBackup,
  type RestorePorts,
  type RestoreRequest,
} from '../../operations/restore.ts';
import { confirmBackup, copyBackup, recordBackup, type CopiedBackup } from '../../operations/take-backup.ts';
import { connectionFromEnvironment } from '../../postgres/connection.ts';
import { createRepository, type Repository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';
import type { Codec } from '../../streams/codec.ts';
import type { Postgres } from './postgres.ts';
import { giveToServerUser } from './server-user.ts';
import { makeTempDir } from './temp.ts';
import { repositoryRoot } from './tools.ts';

const signal = new AbortController().signal;

/** A directory repository of one server, and what tests do with it. */
export interface TestArchive {
  readonly directory: string;
  readonly server: string;
  /** For `archive_command`: copies the file as it is, and never over another. */
  readonly archiveCommand: string;
  readonly repository: Repository;
  readonly ports: RestorePorts;
  takeBackup(
    postgres: Postgres,
    options?: { name?: string; codec?: Codec; jobs?: number; maxPartBytes?: number },
  ): Promise<CopiedBackup>;
  plan(target: RecoveryTarget, options?: Omit<PlanRequest, 'target'>): ReturnType<typeof planFromRepository>;
  /** Plans and restores into a new directory. */
  restore(
    target: RecoveryTarget,
    request?: Partial<RestoreRequest> & Omit<PlanRequest, 'target'>,
  ): Promise<RestoredBackup>;
}

export function createTestArchive(server = 'pg'): TestArchive {
  const directory = join(makeTempDir('repo'), 'store');
  // The backup is taken by this process and the WAL archived by the server: both have to get in.
  for (const path of [directory, join(directory, server), join(directory, server, 'wals')]) {
    mkdirSync(path);
    giveToServerUser(path);
  }
  const store = { kind: 'file', directory } as const;
  const repository = createRepository(openStore(store), server);
  const wals = `${directory}/${server}/wals`;
  const archiveCommand =
    `f=%f; case $f in *.history) d='${wals}';; *) d='${wals}'/$(printf %%.16s $f);; esac; ` +
    `mkdir -p $d && test ! -f $d/$f && cp %p $d/.$f.tmp && mv $d/.$f.tmp $d/$f`;
  const program = [
    process.execPath,
    `${repositoryRoot}/test/support/wal-fetch-program.ts`,
    directory,
    server,
  ];
  const ports: RestorePorts = {
    repository,
    store,
    restoreCommand: `${program.map((word) => `"${word}"`).join(' ')} %f %p`,
    reference: {
      namespace: 'default',
      serverName: server,
      barmanObjectStore: { destinationPath: `file://${directory}` },
    },
  };
  return {
    directory,
    server,
    archiveCommand,
    repository,
    ports,
    async takeBackup(postgres, { name = 'test-backup', codec = 'gzip', jobs = 2, maxPartBytes } = {}) {
      const backup = {
        postgres: connectionFromEnvironment(postgres.environment),
        store,
        repository: async () => repository,
        walkeepVersion: '0.0.0',
      };
      const input = {
        cluster: server,
        namespace: 'default',
        instance: `${server}-1`,
        backupName: name,
        immediateCheckpoint: true,
        jobs,
        codec,
        pgdata: postgres.dataDirectory,
        ...(maxPartBytes === undefined ? {} : { maxPartBytes }),
      };
      const copied = await copyBackup(backup, input, { signal });
      await confirmBackup(backup, copied, { signal, deadlineMs: 60_000 });
      await recordBackup(backup, copied, { signal });
      return copied;
    },
    plan: (target, options = {}) => planFromRepository(repository, { target, ...options }, { signal }),
    async restore(target, { acceptEnd, readsWal, ...request } = {}) {
      const plan =
        request.plan ?? (await planFromRepository(repository, { target, acceptEnd, readsWal }, { signal }));
      const targetDirectory = request.targetDirectory ?? join(makeTempDir('restored'), 'data');
      return restore(ports, { ...request, plan, targetDirectory }, { signal });
    },
  };
}
