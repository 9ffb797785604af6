import { BackupError } from '../core/errors.ts';
import { parseWalFileName } from '../core/segment.ts';
import { CODECS, CODEC_SUFFIX, type Codec } from '../streams/codec.ts';

/**
 * Where everything lies: pure builders of keys relative to `destinationPath`. `base/` and `wals/` are barman's and
 * hold nothing a stock tool would trip over; what is ours lies in `walkeep/`.
 *
 * @see docs/repository.md
 */

/** What a tar of a base backup holds: the data directory, or the tablespace with that oid. */
export type PartArea = 'data' | `${number}`;

/** What the name of a base backup's tar says. `index` counts the parts of one area from 0. */
export interface PartName {
  readonly area: PartArea;
  readonly index: number;
  readonly codec: Codec;
}

const CODEC_BY_SUFFIX: ReadonlyMap<string, Codec> = new Map(
  CODECS.map((codec) => [CODEC_SUFFIX[codec], codec]),
);

const MAX_SERVER_BYTES = 255;

/**
 * `server` itself, when it can be a folder of the repository: nothing in a key is escaped.
 *
 * @throws BackupError `config-invalid`
 */
export function validateServerName(server: string): string {
  const refuse = (why: string): never => {
    throw new BackupError('config-invalid', `server name ${JSON.stringify(server)} ${why}`, {
      hint: 'set serverName to a plain name, such as the name of the cluster',
    });
  };
  if (server === '') refuse('is empty');
  if (/[\p{Cc}\p{Cs}]/u.test(server)) refuse('holds control characters');
  if (Buffer.byteLength(server) > MAX_SERVER_BYTES) refuse(`is longer than ${MAX_SERVER_BYTES} bytes`);
  for (const folder of server.split('/')) {
    if (folder === '') refuse('begins or ends with a slash, or holds two in a row');
    if (folder === '.' || folder === '..') refuse(`holds the folder "${folder}"`);
  }
  return server;
}

/** Whether `text` can be the id of a backup: `YYYYMMDDTHHMMSS`, a time in UTC. */
export function isBackupId(text: string): boolean {
  return /^\d{8}T\d{6}$/.test(text);
}

/** `id` itself. @throws BackupError `format-invalid` */
export function validateBackupId(id: string): string {
  if (!isBackupId(id)) {
    throw new BackupError('format-invalid', `not a backup id: ${quoted(id)} (expected like 20261122T222531)`);
  }
  return id;
}

/** A name from outside, for a message: escaped and cut. */
export function quoted(text: string): string {
  return JSON.stringify(text.length > 200 ? `${text.slice(0, 200)}…` : text);
}

/** The folder of all base backups. */
export function basePrefix(server: string): string {
  return `${server}/base/`;
}

/** The folder of one base backup. */
export function backupPrefix(server: string, backupId: string): string {
  return `${basePrefix(server)}${validateBackupId(backupId)}/`;
}

/** The record of a backup: with `status=DONE` its last write. */
export function backupInfoKey(server: string, backupId: string): string {
  return `${backupPrefix(server, backupId)}backup.info`;
}

/** The name of a tar inside its backup's folder, such as `data_0001.tar.gz`. */
export function partName(area: PartArea, index: number, codec: Codec): string {
  const number = index === 0 ? '' : `_${String(index).padStart(4, '0')}`;
  return `${area}${number}.tar${CODEC_SUFFIX[codec]}`;
}

/** The key of a tar; `index` counts the parts of one area from 0. */
export function partKey(
  server: string,
  backupId: string,
  area: PartArea,
  index: number,
  codec: Codec,
): string {
  return backupPrefix(server, backupId) + partName(area, index, codec);
}

/** Reads the name of a tar (without folders). @returns `undefined` for every other name */
export function parsePartName(name: string): PartName | undefined {
  const match = /^(data|[1-9]\d{0,9})(?:_(\d{4,6}))?\.tar(\.[a-z0-9]+)?$/.exec(name);
  const codec = CODEC_BY_SUFFIX.get(match?.[3] ?? '');
  if (!match || codec === undefined) return undefined;
  const area = match[1] as PartArea;
  if (area !== 'data' && Number(area) > 0xffff_ffff) return undefined;
  const index = Number(match[2] ?? 0);
  // `data_0000.tar` would be a second name of `data.tar`; nobody writes it
  if (match[2] !== undefined && partName(area, index, codec) !== name) return undefined;
  return { area, index, codec };
}

/** Whether stock tools would take an object of this name in a backup's folder for one of its tars. */
export function looksLikePart(name: string): boolean {
  return /^(?:data|\d+)(?:_[^.]*)?\.tar(?:\.|$)/.test(name);
}

/** The annotation that keeps a backup from retention: `full` or `standalone`. */
export function keepKey(server: string, backupId: string): string {
  return `${backupPrefix(server, backupId)}annotations/keep`;
}

/** The folder of the WAL archive. */
export function walPrefix(server: string): string {
  return `${server}/wals/`;
}

/**
 * The folder of a WAL file: named after its first 16 digits, whatever the segment size; history files lie in the
 * archive's root.
 *
 * @throws BackupError `format-invalid`
 */
export function walFolder(server: string, fileName: string): string {
  const file = parseWalFileName(fileName);
  if (!file) throw new BackupError('format-invalid', `not the name of a WAL file: ${quoted(fileName)}`);
  const folder = file.kind === 'history' ? '' : `${fileName.slice(0, 16)}/`;
  return walPrefix(server) + folder;
}

/** The key of a WAL file. @throws BackupError `format-invalid` */
export function walKey(server: string, fileName: string, codec: Codec): string {
  return walFolder(server, fileName) + fileName + CODEC_SUFFIX[codec];
}

/** The folder of what is recorded of WAL files, where it can't travel with them: as that of the archive, below ours. */
export function walDigestPrefix(server: string): string {
  return `${ownKey(server, 'wal')}/`;
}

/** The key of the record of one object. @param key of the WAL file */
export function walDigestKey(server: string, key: string): string {
  return `${walDigestPrefix(server)}${key.slice(walPrefix(server).length)}.json`;
}

/** What a name in the archive says; `undefined` when it is not a WAL file with at most one known suffix. */
export function parseWalObjectName(name: string): { fileName: string; codec: Codec } | undefined {
  if (parseWalFileName(name)) return { fileName: name, codec: 'none' };
  const dot = name.lastIndexOf('.');
  const codec = dot < 0 ? undefined : CODEC_BY_SUFFIX.get(name.slice(dot));
  const fileName = name.slice(0, Math.max(dot, 0));
  return codec !== undefined && parseWalFileName(fileName) ? { fileName, codec } : undefined;
}

/**
 * The key of something that is ours, beside `base/` and `wals/`.
 *
 * @throws BackupError `format-invalid` for path elements that would leave the folder
 */
export function ownKey(server: string, ...path: readonly string[]): string {
  for (const element of path) {
    const isPlain =
      element !== '' && element !== '.' && element !== '..' && !/[/\p{Cc}\p{Cs}]/u.test(element);
    if (!isPlain)
      throw new BackupError('format-invalid', `not a name inside a repository: ${quoted(element)}`);
  }
  return `${server}/walkeep/${path.join('/')}`;
}
