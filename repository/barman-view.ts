import { messageOf } from '../core/errors.ts';
import { MAX_BACKUP_INFO_BYTES } from './backup-info.ts';
import { concurrently } from './concurrently.ts';
import { basePrefix, quoted } from './layout.ts';
import { parseLiteral } from './python-literal.ts';
import { parseRecordTime } from './record-time.ts';
import type { Repository } from './repository.ts';
import { readSmallObject } from './small-object.ts';

/** What barman-cloud 3.19 makes of the records of a server. */
export interface BarmanView {
  /** In the order of its list: what `barman-cloud-backup-list` shows, as long as nothing blocks it. */
  readonly shown: readonly BarmanBackup[];
  /** Records that it passes over with a warning; it deletes nothing while there is one. */
  readonly unreadable: readonly { readonly folder: string; readonly why: string }[];
  /** Records that make list, show, restore and delete of the whole server fail. */
  readonly blocking: readonly { readonly folder: string; readonly why: string }[];
}

export interface BarmanBackup {
  /** It is addressed by its id only when that is one; the list shows it under the name of its folder. */
  readonly id: string;
  readonly name?: string;
  readonly status: string;
}

type Check = (value: string) => unknown;

const whole: Check = (value) => {
  if (!/^\s*[+-]?\d+(_\d+)*\s*$/.test(value)) throw new Error(`not a number: ${quoted(value)}`);
};
const text: Check = () => undefined;

/** Every field that 3.19 knows, and how it reads it; a name that is none of these ends the program. */
const FIELDS: ReadonlyMap<string, Check> = new Map<string, Check>([
  ...each(
    whole,
    'version timeline begin_offset end_offset size deduplicated_size cluster_size xlog_segment_size',
  ),
  ...each(parseRecordTime, 'begin_time end_time'),
  ...each(parseLiteral, 'tablespaces included_files backup_label copy_stats snapshots_info'),
  ...each(
    text,
    'backup_name begin_wal begin_xlog children_backup_ids compression config_file data_checksums encryption ' +
      'end_wal end_xlog error hba_file ident_file mode parent_backup_id pgdata server_name status ' +
      'summarize_wal systemid',
  ),
]);

function each(check: Check, names: string): [string, Check][] {
  return names.split(' ').map((name) => [name, check]);
}

type Reading =
  | { readonly kind: 'shown'; readonly name?: string; readonly status: string }
  | { readonly kind: 'unreadable' | 'blocking'; readonly why: string };

/** What barman-cloud makes of one record: line by line, and the first line that it can't take decides. Pure. */
export function readAsBarman(bytes: Uint8Array): Reading {
  const known = new Map<string, string>();
  for (const [index, raw] of linesOf(bytes).entries()) {
    const line = decode(raw);
    if (line === undefined) return { kind: 'unreadable', why: `line ${index + 1} is not UTF-8` };
    if (strip(line) === '' || line.startsWith('#')) continue;
    const equals = line.indexOf('=');
    if (equals < 0) return { kind: 'unreadable', why: `line ${index + 1} is not key=value` };
    const name = strip(line.slice(0, equals));
    const value = strip(line.slice(equals + 1));
    const check = FIELDS.get(name);
    if (!check) return { kind: 'blocking', why: `it knows no field ${quoted(name)}` };
    try {
      if (value !== 'None') check(value);
    } catch (error) {
      return { kind: 'unreadable', why: `${name}: ${messageOf(error)}` };
    }
    if (value === 'None') known.delete(name);
    else known.set(name, value);
  }
  const backupName = known.get('backup_name');
  return {
    kind: 'shown',
    status: known.get('status') ?? 'EMPTY',
    ...(backupName === undefined ? {} : { name: backupName }),
  };
}

const SPACE = '[\\t-\\r\\x1c- \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]';
const AROUND = new RegExp(`^${SPACE}+|${SPACE}+$`, 'gu');

/** As Python takes spaces off: a byte-order mark is none of them. */
function strip(words: string): string {
  return words.replaceAll(AROUND, '');
}

function linesOf(bytes: Uint8Array): Uint8Array[] {
  const lines: Uint8Array[] = [];
  for (let at = 0; at < bytes.length;) {
    const end = bytes.indexOf(0x0a, at);
    lines.push(bytes.subarray(at, end < 0 ? bytes.length : end));
    at = end < 0 ? bytes.length : end + 1;
  }
  return lines;
}

function decode(bytes: Uint8Array): string | undefined {
  try {
    // a mark at the beginning is part of the first field's name for Python
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

const READS_AT_ONCE = 8;

/**
 * What barman-cloud would see, from one read of each record.
 *
 * @param folders in `base/`, whatever they are called
 */
export async function readBarmanView(
  r: Repository,
  folders: readonly string[],
  signal: AbortSignal,
): Promise<BarmanView> {
  const readings = await concurrently(folders.toSorted(), READS_AT_ONCE, async (folder) => {
    const key = `${basePrefix(r.server)}${folder}/backup.info`;
    const bytes = await readSmallObject(r.store, key, { maxBytes: MAX_BACKUP_INFO_BYTES, signal });
    return bytes && { folder, ...readAsBarman(bytes) };
  });
  const found = readings.filter((reading) => reading !== undefined);
  return {
    shown: found.flatMap((reading) =>
      reading.kind === 'shown'
        ? [{ id: reading.folder, status: reading.status, ...(reading.name && { name: reading.name }) }]
        : [],
    ),
    unreadable: found.flatMap((reading) =>
      reading.kind === 'unreadable' ? [{ folder: reading.folder, why: reading.why }] : [],
    ),
    blocking: found.flatMap((reading) =>
      reading.kind === 'blocking' ? [{ folder: reading.folder, why: reading.why }] : [],
    ),
  };
}
