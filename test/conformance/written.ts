import { join } from 'node:path';
import { expect } from 'vitest';
import { historyFileName } from '../../core/timeline.ts';
import {
  confirmBackup,
  copyBackup,
  recordBackup,
  type BackupPorts,
  type CopiedBackup,
} from '../../operations/take-backup.ts';
import { createArchiveMemory, pushWal } from '../../operations/archive-wal.ts';
import { connectionFromEnvironment } from '../../postgres/connection.ts';
import { listBackups, listParts } from '../../repository/catalogue.ts';
import type { Codec } from '../../streams/codec.ts';
import type { Content } from '../support/barman-cases.ts';
import { baseCodecOf, type Cell } from './cells.ts';
import type { Folder } from './places.ts';
import type { Source } from './source.ts';

export const { signal } = new AbortController();

const MiB = 1024 * 1024;

/** A backup of a cell, as the tool that took it says. */
export interface Taken {
  readonly backupId: string;
  readonly backupName: string;
  readonly beginWal: string;
  readonly timeline: number;
}

/** What lies in the folder of a cell: two backups, and all WAL from the first one on. */
export interface Written {
  readonly first: Taken;
  readonly second: Taken;
  /** What walkeep said of its own. */
  readonly copied: readonly CopiedBackup[];
  /** The archived files, but for the labels that PostgreSQL archives. */
  readonly wal: readonly string[];
  /** The rows that a recovery to the end has to show. */
  readonly atEnd: Content;
}

/** Makes the repository of a cell by the tool that the cell names. */
export async function write(cell: Cell, source: Source, folder: Folder): Promise<Written> {
  const writer = (cell.writer === 'walkeep' ? walkeepWriter : barmanWriter)(cell, source, folder);
  // what was there before this cell is another's, but for the history of the timeline that it begins on
  await source.waitFor(await source.postgres.switchWal());
  const own = historyFileName(await source.timeline());
  const done = new Set(source.archived().filter((name) => name !== own));
  const wal: string[] = [];
  const archive = async (): Promise<void> => {
    for (const name of source.archived().filter((one) => !done.has(one))) {
      await writer.archive(name);
      done.add(name);
      // barman-cloud never fetches the file that says where a backup began
      if (!name.endsWith('.backup')) wal.push(name);
    }
  };
  const first = await writer.backUp('older', archive);
  await source.writeChapter('between');
  if (cell.shape === 'timelines') await source.promote();
  const second = await writer.backUp('newer', archive);
  await source.writeChapter('after');
  const atEnd = await source.close();
  await archive();
  return { first, second, copied: writer.copied, wal, atEnd };
}

interface Writer {
  /** Archives one file of the source's ledger. */
  archive(name: string): Promise<void>;
  /** @param archive to be called as soon as all WAL of the backup was archived by the source */
  backUp(name: string, archive: () => Promise<void>): Promise<Taken>;
  /** What walkeep said of its own backups. */
  readonly copied: readonly CopiedBackup[];
}

function walkeepWriter(cell: Cell, source: Source, folder: Folder): Writer {
  const copied: CopiedBackup[] = [];
  const repository = () => Promise.resolve(folder.repository);
  const archiving = {
    codec: cell.codec,
    pgWalDirectory: source.ledger,
    repository,
    identity: () => Promise.resolve({ systemId: source.systemId, segmentSize: 16 * MiB }),
    memory: createArchiveMemory(),
  };
  const ports: BackupPorts = {
    postgres: connectionFromEnvironment(source.postgres.environment),
    store: folder.place.config,
    repository,
    walkeepVersion: '0.0.0-test',
  };
  const inParts = cell.shape === 'parts';
  return {
    copied,
    async archive(name) {
      expect(await pushWal(archiving, name, { signal })).toMatchObject({ outcome: 'archived' });
    },
    async backUp(backupName, archive) {
      const input = {
        cluster: folder.server,
        namespace: 'default',
        instance: `${folder.server}-1`,
        backupName,
        immediateCheckpoint: true,
        jobs: inParts ? 2 : 1,
        codec: baseCodecOf(cell),
        pgdata: source.postgres.dataDirectory,
        ...(inParts ? { maxPartBytes: MiB } : {}),
      };
      const backup = await copyBackup(ports, input, { signal });
      await source.waitFor(backup.endWal);
      await archive();
      await confirmBackup(ports, backup, { signal, deadlineMs: 60_000 });
      await recordBackup(ports, backup, { signal });
      copied.push(backup);
      return backup;
    },
  };
}

function barmanWriter(cell: Cell, source: Source, folder: Folder): Writer {
  return {
    copied: [],
    async archive(name) {
      const path = join(source.ledger, name);
      const outcome = await folder.barman('barman-cloud-wal-archive', codecOption(cell.codec), [path]);
      expect(outcome, name).toMatchObject({ code: 0 });
    },
    async backUp(backupName, archive) {
      const options = [
        '--name',
        backupName,
        '--immediate-checkpoint',
        ...codecOption(baseCodecOf(cell)),
        ...(cell.shape === 'parts' ? ['--max-archive-size', '1MB', '--jobs', '2'] : []),
      ];
      const outcome = await folder.barman('barman-cloud-backup', options, [], source.postgres);
      expect(outcome).toMatchObject({ code: 0 });
      const entries = await listBackups(folder.repository, signal);
      const info = entries.find((entry) => entry.info?.backupName === backupName)?.info;
      if (info?.beginWal === undefined || info.endWal === undefined || info.timeline === undefined)
        throw new Error(`barman-cloud recorded no whole backup: ${JSON.stringify(entries)}`);
      await source.waitFor(info.endWal);
      await archive();
      return { backupId: info.backupId, backupName, beginWal: info.beginWal, timeline: info.timeline };
    },
  };
}

/** How barman-cloud is asked for a codec. */
export function codecOption(codec: Codec): string[] {
  return codec === 'none' ? [] : [`--${codec}`];
}

/** How many tars the first backup has, by what they hold. */
export async function countTars(folder: Folder, { backupId }: Taken): Promise<number> {
  return (await listParts(folder.repository, backupId, signal)).length;
}
