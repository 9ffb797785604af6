import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import { planFromRepository } from '../../operations/recovery-plan.ts';
import { restore } from '../../operations/restore.ts';
import { openStateDirectory } from '../../operations/state-directory.ts';
import { recoveryCommandLine } from '../../operations/wal-command-lines.ts';
import { readBackupManifest } from '../../repository/backup-record.ts';
import { readBackup } from '../../repository/catalogue.ts';
import { collectBytes } from '../../streams/chunks.ts';
import {
  contentOf,
  newPlaces,
  openRestored,
  tablespaceLinks,
  type NewPlaces,
} from '../support/barman-cases.ts';
import { openPostgres, type Postgres } from '../support/postgres.ts';
import { runProcess, type Outcome } from '../support/processes.ts';
import { serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { postgresBin, type Major } from '../support/tools.ts';
import type { Folder } from './places.ts';
import type { Source } from './source.ts';
import { signal, type Taken, type Written } from './written.ts';

/** Restores by barman-cloud into new directories. */
export async function restoreByBarman(
  folder: Folder,
  source: Source,
  backup: Taken,
): Promise<NewPlaces & { readonly outcome: Outcome }> {
  const places = newPlaces(source.tablespaces);
  const rules = places.tablespaces.flatMap(({ name, location }) => ['--tablespace', `${name}:${location}`]);
  const outcome = await folder.barman('barman-cloud-restore', rules, [backup.backupId, places.pgdata]);
  return { ...places, outcome };
}

/** Restores by walkeep into new directories, ready to be started. */
export async function restoreByWalkeep(folder: Folder, source: Source, backup: Taken): Promise<NewPlaces> {
  const places = newPlaces(source.tablespaces);
  const { repository, place } = folder;
  const target = { backupID: backup.backupId };
  const plan = await planFromRepository(repository, { target }, { signal });
  expect(plan.backupId).toBe(backup.backupId);
  const stateDirectory = makeTempDir('state');
  if (place.secret)
    await openStateDirectory(stateDirectory).createSecret({ namespace: 'default', ...place.secret });
  const ports = {
    repository,
    store: place.config,
    restoreCommand: recoveryCommandLine({ recoveryFile: 'walkeep_recovery.json', stateDirectory }),
    reference: {
      namespace: 'default',
      serverName: folder.server,
      barmanObjectStore: place.barmanObjectStore,
    },
  };
  const tablespaces = Object.fromEntries(places.tablespaces.map(({ name, location }) => [name, location]));
  await restore(ports, { plan, targetDirectory: places.pgdata, tablespaces }, { signal });
  return places;
}

/** Held against the manifest that walkeep keeps, and against what barman-cloud and PostgreSQL ask of a directory. */
export async function requireWhole(
  folder: Folder,
  major: Major,
  backup: Taken,
  { pgdata, tablespaces }: NewPlaces,
): Promise<void> {
  expect((statSync(pgdata).mode & 0o777).toString(8)).toMatch(/^7[05]0$/);
  expect(existsSync(join(pgdata, 'tablespace_map'))).toBe(false);
  const info = await readBackup(folder.repository, backup.backupId, signal);
  expect(readFileSync(join(pgdata, 'backup_label'), 'utf8')).toBe(info?.backupLabel);
  expect(tablespaceLinks(pgdata)).toEqual(tablespaces.map(({ location }) => location));
  const source = await readBackupManifest(folder.repository, backup.backupId, signal);
  if (!source) return;
  const manifest = join(makeTempDir('manifest'), 'backup_manifest');
  writeFileSync(manifest, await collectBytes(source, 2 ** 26));
  const args = ['--no-parse-wal', '--exit-on-error', '-m', manifest, pgdata];
  const verified = await runProcess(join(postgresBin(major), 'pg_verifybackup'), args, { user: serverUser });
  expect(verified).toMatchObject({ code: 0, stderr: '' });
}

/** Recovers what barman-cloud restored, with WAL by it, to the end, and looks at every row. */
export async function requireRecoveryByBarman(
  folder: Folder,
  { postgres: { major } }: Source,
  { pgdata }: NewPlaces,
  { atEnd }: Written,
): Promise<void> {
  const settings = { restore_command: folder.restoreCommand() };
  await requireRows(await openRestored(major, pgdata, 'recovery.signal', settings), atEnd);
}

/** Recovers what walkeep restored, with WAL by it, to the end, and looks at every row. */
export async function requireRecoveryByWalkeep(
  { postgres: { major } }: Source,
  { pgdata }: NewPlaces,
  { atEnd }: Written,
): Promise<void> {
  await requireRows(await openPostgres({ major, dataDirectory: pgdata }), atEnd);
}

async function requireRows(postgres: Postgres, expected: Written['atEnd']): Promise<void> {
  await postgres.start();
  await postgres.waitUntilPromoted(120_000);
  expect(await contentOf(postgres)).toEqual(expected);
  await postgres.stop('immediate');
}
