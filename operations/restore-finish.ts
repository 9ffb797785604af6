import {
  chmodSync,
  chownSync,
  closeSync,
  constants,
  existsSync,
  linkSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { BackupError, messageOf } from '../core/errors.ts';
import { failpoint } from '../core/failpoint.ts';
import { formatLsn } from '../core/lsn.ts';
import { parseBackupLabel } from '../postgres/backup-label.ts';
import { parseControlData } from '../postgres/control-data.ts';
import {
  formatSettings,
  parseSettings,
  raisedLimits,
  recoverySettings,
  withoutCheckpoint,
  withoutPlaces,
} from '../postgres/recovery-settings.ts';
import type { BackupInfo } from '../repository/backup-info.ts';
import { WITHHELD, type UnpackedPart } from './part-writer.ts';
import { formatRecoveryFile, RECOVERY_FILE } from './recovery-file.ts';
import type { RestorePorts, RestoreRequest } from './restore.ts';
import { RESTORE_MARKER, type Owner, type RestoreTarget } from './restore-targets.ts';
import { syncPath, syncTrees } from './sync-trees.ts';

export interface UnpackedBackup {
  readonly ports: RestorePorts;
  readonly request: RestoreRequest;
  readonly info: BackupInfo;
  readonly targets: readonly RestoreTarget[];
  readonly unpacked: readonly UnpackedPart[];
  readonly owner: Owner | undefined;
  readonly signal: AbortSignal;
}

/**
 * Makes of unpacked parts a data directory that PostgreSQL can recover. The order is the promise (C2): everything is
 * there and durable before the label, the label before `pg_control`, and only with that does PostgreSQL start.
 *
 * @throws BackupError `object-damaged` when the backup turns out not to be one
 */
export async function finishRestore(
  backup: UnpackedBackup,
): Promise<{ majorVersion: number; warnings: string[] }> {
  const finish = new Finish(backup);
  const control = finish.requireWhole();
  finish.makeDirectories();
  finish.makeLinks();
  finish.linkTablespaces();
  finish.adjustConfiguration(control);
  finish.writeRecovery();
  failpoint('restore.settings-written');
  const [data] = backup.targets;
  await syncTrees(
    backup.targets.map(({ directory }) => directory),
    backup.signal,
  );
  backup.signal.throwIfAborted();
  finish.activate();
  return {
    majorVersion: finish.majorVersion(),
    warnings: finish.warnings.map((warning) => warning.replace(`${data?.directory}/`, '')),
  };
}

class Finish {
  readonly warnings: string[] = [];
  readonly #backup: UnpackedBackup;
  readonly #pgdata: string;

  constructor(backup: UnpackedBackup) {
    this.#backup = backup;
    this.#pgdata = (backup.targets[0] as RestoreTarget).directory;
  }

  /** Holds what came out of the tars against the record. @returns the bytes of `pg_control` */
  requireWhole(): Buffer {
    const { info, request } = this.#backup;
    const control = this.#required(`global/pg_control${WITHHELD}`, 'global/pg_control');
    const label = parseBackupLabel(
      this.#required(`backup_label${WITHHELD}`, 'backup_label').toString('utf8'),
    );
    const { systemId } = parseControlData(control);
    if (info.systemId !== undefined && info.systemId !== systemId) {
      throw this.#damaged(`its pg_control is of system ${systemId}, its record of ${info.systemId}`);
    }
    if (
      formatLsn(label.beginLsn) !== request.plan.backupBeginLsn ||
      label.timeline !== request.plan.backupTimeline
    ) {
      throw this.#damaged(
        `its backup_label begins at ${formatLsn(label.beginLsn)} on timeline ${label.timeline}, its record at ${request.plan.backupBeginLsn} on ${request.plan.backupTimeline}`,
      );
    }
    if (info.version !== undefined && Math.floor(info.version / 10_000) !== this.majorVersion()) {
      throw this.#damaged(`its PG_VERSION is ${this.majorVersion()}, its record says ${info.version}`);
    }
    return control;
  }

  majorVersion(): number {
    const version = Number(this.#required('PG_VERSION', 'PG_VERSION').toString('utf8').trim());
    if (Number.isInteger(version) && version >= 13 && version <= 99) return version;
    throw this.#damaged('its PG_VERSION is no version walkeep knows');
  }

  makeDirectories(): void {
    const rootMode = this.#backup.unpacked.find((part) => part.rootMode !== undefined)?.rootMode;
    // PostgreSQL refuses anything but these two.
    chmodSync(this.#pgdata, rootMode !== undefined && (rootMode & 0o040) !== 0 ? 0o750 : 0o700);
    for (const { directory } of this.#backup.targets.slice(1)) chmodSync(directory, 0o700);
    const names = [
      'pg_wal',
      'pg_wal/archive_status',
      'pg_tblspc',
      'pg_replslot',
      'pg_dynshmem',
      'pg_notify',
      'pg_serial',
      'pg_snapshots',
      'pg_stat',
      'pg_stat_tmp',
      'pg_subtrans',
      'pg_twophase',
      'pg_commit_ts',
      'pg_logical',
      'pg_logical/snapshots',
      'pg_logical/mappings',
    ];
    if (this.majorVersion() >= 17) names.push('pg_wal/summaries');
    for (const name of names) {
      const path = join(this.#pgdata, name);
      if (isThere(path)) continue;
      mkdirSync(path, 0o700);
      this.#give(path);
    }
  }

  /** Links of the tars, when nothing is written any more that could go through one. */
  makeLinks(): void {
    for (const [index, part] of this.#backup.unpacked.entries()) {
      const root = this.#rootOf(index);
      for (const { path, kind, to } of part.links) {
        const at = join(root, path);
        try {
          this.#requirePlainWay(root, path);
          if (isThere(at)) unlinkSync(at);
          if (kind === 'symlink') symlinkSync(to, at);
          else {
            this.#requirePlainWay(root, to);
            if (!lstatSync(join(root, to)).isFile()) throw new Error(`${to} is not a file`);
            linkSync(join(root, to), at);
          }
          const { owner } = this.#backup;
          if (owner) lchownSync(at, owner.uid, owner.gid);
        } catch (error) {
          this.warnings.push(`the link ${path} was left out: ${messageOf(error)}`);
        }
      }
    }
  }

  linkTablespaces(): void {
    for (const { area, directory } of this.#backup.targets.slice(1)) {
      const link = join(this.#pgdata, 'pg_tblspc', area);
      if (isThere(link)) {
        // of an interrupted attempt with the same directory, or it is not ours
        if (lstatSync(link).isSymbolicLink() && readlinkSync(link) === directory) continue;
        if (!lstatSync(link).isSymbolicLink())
          throw this.#damaged(`it holds pg_tblspc/${area} as a directory`);
        unlinkSync(link);
      }
      symlinkSync(directory, link);
      const { owner } = this.#backup;
      if (owner) lchownSync(link, owner.uid, owner.gid);
    }
  }

  adjustConfiguration(control: Buffer): void {
    const { info, request, ports } = this.#backup;
    this.#requireConfigurationFile(
      'postgresql.conf',
      info.configFile,
      '# the backup held no postgresql.conf\n',
    );
    this.#requireConfigurationFile('pg_hba.conf', info.hbaFile, 'local all all peer\n');
    this.#requireConfigurationFile('pg_ident.conf', info.identFile, '');
    const disabled = this.#withoutPlaces('postgresql.conf');
    const text = readFileSync(join(this.#pgdata, 'postgresql.conf'), 'utf8');
    if (disabled.length > 0) {
      this.warnings.push(
        `postgresql.conf named places of the source, which do not count for the copy: ${disabled.slice(0, 5).join('; ')}`,
      );
    }
    const auto = join(this.#pgdata, 'postgresql.auto.conf');
    const automatic = isThere(auto) ? readFileSync(auto, 'utf8') : '';
    const begin = automatic.indexOf(BLOCK_BEGIN);
    // An interrupted attempt may have been here; its settings are replaced.
    const kept = begin < 0 ? automatic : automatic.slice(0, begin);
    const configured = new Map([...parseSettings(text), ...parseSettings(kept)]);
    const settings = recoverySettings({
      target: request.plan.settings,
      restoreCommand: ports.restoreCommand,
      action: request.action ?? 'promote',
      isStandby: request.isStandby === true,
      raised: raisedLimits(control, configured),
      extra: request.settings ?? {},
    });
    const block = `${BLOCK_BEGIN} of backup ${info.backupId}; what came before is the source's\n${formatSettings(settings)}`;
    this.#write('postgresql.auto.conf', `${kept === '' || kept.endsWith('\n') ? kept : `${kept}\n`}${block}`);
  }

  writeRecovery(): void {
    const { ports, request, info } = this.#backup;
    const { plan } = request;
    const now = (ports.now ?? (() => new Date()))();
    const systemId = info.systemId;
    this.#write(
      RECOVERY_FILE,
      formatRecoveryFile({
        version: 1,
        createdAt: now.toISOString(),
        backupId: info.backupId,
        repository: ports.reference,
        spool: 'walkeep_spool',
        ...(request.isStandby === true
          ? {}
          : {
              plan: {
                segmentSize: plan.segmentSize,
                timelinePath: [...plan.timelinePath],
                ...(systemId === undefined ? {} : { systemId }),
                ...(plan.acceptsEnd && plan.hole ? { acceptedEnd: plan.hole.missing } : {}),
                ...(plan.tail === undefined ? {} : { tail: plan.tail }),
              },
            }),
      }),
    );
    // The other signal of an interrupted attempt with another request must not stay.
    const [signal, other] =
      request.isStandby === true
        ? ['standby.signal', 'recovery.signal']
        : ['recovery.signal', 'standby.signal'];
    if (isThere(join(this.#pgdata, other))) unlinkSync(join(this.#pgdata, other));
    this.#write(signal, '');
  }

  activate(): void {
    const control = `${this.#pgdata}/global/pg_control`;
    const changed = withoutCheckpoint(readFileSync(`${control}${WITHHELD}`));
    writeFileSync(`${control}${WITHHELD}`, changed);
    syncPath(`${control}${WITHHELD}`);
    renameSync(`${this.#pgdata}/backup_label${WITHHELD}`, `${this.#pgdata}/backup_label`);
    syncPath(this.#pgdata);
    failpoint('restore.label-in-place');
    const [data, ...tablespaces] = this.#backup.targets;
    // Before it can be started: a marker left behind would let a later restore fill a tablespace that is in use (C1).
    for (const { directory } of tablespaces) this.#unmark(directory);
    renameSync(`${control}${WITHHELD}`, control);
    syncPath(dirname(control));
    failpoint('restore.activated');
    // Last: until pg_control has its name, the marker lets the same command begin anew.
    if (data) this.#unmark(data.directory);
  }

  #unmark(directory: string): void {
    unlinkSync(join(directory, RESTORE_MARKER));
    syncPath(directory);
  }

  /**
   * Comments out what would lead the copy back to the source's places, in a configuration file and in those it
   * includes; what lies outside of the copy is not included any more.
   *
   * @returns the lines that do not count any more
   */
  #withoutPlaces(name: string, seen = new Set<string>()): string[] {
    if (seen.has(name)) return [];
    seen.add(name);
    const inside = (path: string) => relative(this.#pgdata, resolve(this.#pgdata, dirname(name), path));
    const { text, disabled, included } = withoutPlaces(
      readFileSync(join(this.#pgdata, name), 'utf8'),
      (path) => !inside(path).startsWith('..') && existsSync(join(this.#pgdata, inside(path))),
    );
    if (disabled.length > 0) this.#write(name, text);
    const files = included.map(inside).flatMap((path) => {
      if (!statSync(join(this.#pgdata, path)).isDirectory()) return [path];
      const names = readdirSync(join(this.#pgdata, path)).filter((entry) => /^[^.].*\.conf$/.test(entry));
      return names.map((entry) => join(path, entry));
    });
    return [...disabled, ...files.flatMap((file) => this.#withoutPlaces(file, seen))];
  }

  #rootOf(index: number): string {
    const area = this.#backup.unpacked[index]?.name.split(/[._]/)[0] ?? 'data';
    return (this.#backup.targets.find((target) => target.area === area) as RestoreTarget).directory;
  }

  /** No link on the way to `path`, so that nothing outside is reached through one. */
  #requirePlainWay(root: string, path: string): void {
    for (let at = dirname(path); at !== '.'; at = dirname(at)) {
      if (!lstatSync(join(root, at)).isDirectory()) throw new Error(`${at} is not a directory`);
    }
  }

  /** A configuration file that lay outside of the data directory is in the backup under its last name only. */
  #requireConfigurationFile(name: string, source: string | undefined, otherwise: string): void {
    if (isThere(join(this.#pgdata, name))) return;
    const stored = source === undefined ? undefined : basename(source);
    if (stored !== undefined && stored !== name && isThere(join(this.#pgdata, stored))) {
      this.#write(name, readFileSync(join(this.#pgdata, stored), 'utf8'));
      return;
    }
    this.#write(name, otherwise);
    if (name !== 'pg_ident.conf') this.warnings.push(`the backup held no ${name}; a minimal one was written`);
  }

  #required(onDisk: string, name: string): Buffer {
    try {
      return readFileSync(join(this.#pgdata, onDisk));
    } catch (error) {
      throw this.#damaged(`it holds no ${name} (${messageOf(error)})`);
    }
  }

  #damaged(why: string): BackupError {
    return new BackupError('object-damaged', `backup ${this.#backup.info.backupId} can't be used: ${why}`, {
      hint: 'choose another backup; the directory was not made startable',
    });
  }

  #write(name: string, text: string): void {
    const path = join(this.#pgdata, name);
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW;
    const fd = openSync(path, flags, 0o600);
    try {
      writeFileSync(fd, text);
    } finally {
      closeSync(fd);
    }
    this.#give(path);
  }

  #give(path: string): void {
    const { owner } = this.#backup;
    if (owner) chownSync(path, owner.uid, owner.gid);
  }
}

const BLOCK_BEGIN = '# --- walkeep restore';

function isThere(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}
