import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { runProcess } from './processes.ts';
import { type Major, postgresBin } from './tools.ts';

/** Where a recovery ends, as `recovery_target_*` says it. */
export type Stop =
  | { readonly time: Date }
  | { readonly lsn: string }
  | { readonly xid: string; readonly exclusive?: true }
  | { readonly restorePoint: string }
  /** The end of the backup that began there. */
  | { readonly backupBegunAt: string }
  | 'end';

/** What a WAL archive says happened, read by PostgreSQL's own pg_waldump and nothing of ours. */
export interface CommitOrder {
  /** Transactions that inserted into the relations asked for and whose commit comes before `stop`, sorted. */
  committedUpTo(stop: Stop): Promise<string[]>;
  /** All commits of the WAL, in its order. */
  readonly commits: readonly string[];
  /** Where the last segment ends. */
  readonly endsAt: bigint;
}

interface WalRecord {
  readonly lsn: bigint;
  readonly xid: string;
  readonly description: string;
}

/**
 * Reads all segments of one timeline in `directory`, which follow each other without a gap.
 *
 * @param relations as `tablespace/database/filenode`
 */
export async function readCommitOrder(
  major: Major,
  directory: string,
  relations: readonly string[],
): Promise<CommitOrder> {
  const segments = readdirSync(directory).toSorted();
  const [first, last] = [segments[0], segments.at(-1)];
  if (first === undefined || last === undefined) throw new Error(`no segments in ${directory}`);
  const dump = async (...args: string[]): Promise<WalRecord[]> => {
    const { stdout, stderr } = await runProcess(
      join(postgresBin(major), 'pg_waldump'),
      ['--path', directory, ...args],
      { env: { ...process.env, TZ: 'UTC', LC_ALL: 'C' } },
    );
    // The last record goes on in a segment that was not archived, or zeros follow it.
    if (/error/.test(stderr) && !/error in WAL record|could not find file/.test(stderr))
      throw new Error(stderr);
    return stdout.split('\n').flatMap(parseRecord);
  };
  const span = [first, last];
  const milestones = await dump('--rmgr', 'Transaction', '--rmgr', 'XLOG', ...span);
  const inserters = new Set<string>();
  for (const relation of relations) {
    for (const record of await dump('--rmgr', 'Heap', '--relation', relation, ...span)) {
      if (record.description.startsWith('INSERT')) inserters.add(record.xid);
    }
  }
  const commits = milestones.filter(isCommit);

  /** The position of the last record that is replayed. */
  const lastReplayed = async (stop: Stop): Promise<bigint> => {
    if (stop === 'end') return milestones.at(-1)?.lsn ?? 0n;
    if ('lsn' in stop) {
      // The first record at or behind it is the last one that is replayed.
      const [record] = await dump('--start', stop.lsn, '--limit', '1');
      return found(record, stop.lsn).lsn;
    }
    if ('time' in stop) {
      const later = milestones.find((record) => isEnd(record) && timeOf(record) > stop.time.getTime());
      return found(later, stop.time.toISOString()).lsn - 1n;
    }
    if ('xid' in stop) {
      const end = found(
        milestones.find((record) => isEnd(record) && record.xid === stop.xid),
        `the end of transaction ${stop.xid}`,
      );
      return stop.exclusive ? end.lsn - 1n : end.lsn;
    }
    const text =
      'restorePoint' in stop ? `RESTORE_POINT ${stop.restorePoint}` : `BACKUP_END ${stop.backupBegunAt}`;
    return found(
      milestones.find(({ description }) => sameText(description, text)),
      text,
    ).lsn;
  };
  return {
    commits: commits.map(({ xid }) => xid),
    endsAt: endOfSegment(last, statSync(join(directory, last)).size),
    async committedUpTo(stop) {
      const limit = await lastReplayed(stop);
      return commits
        .filter(({ lsn, xid }) => lsn <= limit && inserters.has(xid))
        .map(({ xid }) => xid)
        .toSorted();
    },
  };
}

function endOfSegment(name: string, sizeBytes: number): bigint {
  const [log, segment] = [BigInt(`0x${name.slice(8, 16)}`), BigInt(`0x${name.slice(16)}`)];
  return (log << 32n) + (segment + 1n) * BigInt(sizeBytes);
}

const RECORD = /tx: +(\d+), lsn: ([0-9A-F]+)\/([0-9A-F]+), .*?desc: (.*)$/;

function parseRecord(line: string): WalRecord[] {
  const [, xid, high, low, description] = RECORD.exec(line) ?? [];
  if (xid === undefined || high === undefined || low === undefined || description === undefined) return [];
  return [{ xid, lsn: (BigInt(`0x${high}`) << 32n) + BigInt(`0x${low}`), description }];
}

function isCommit({ description }: WalRecord): boolean {
  return description.startsWith('COMMIT ');
}

function isEnd(record: WalRecord): boolean {
  return isCommit(record) || record.description.startsWith('ABORT ');
}

/** Milliseconds since 1970, with the microseconds behind the point. */
function timeOf({ description }: WalRecord): number {
  const match = /(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(\.\d+)? UTC/.exec(description);
  if (!match) throw new Error(`no time in: ${description}`);
  return Date.parse(`${match[1]}T${match[2]}Z`) + Number(match[3] ?? 0) * 1000;
}

/** pg_waldump writes LSNs with leading zeros or without them. */
function sameText(a: string, b: string): boolean {
  const plain = (text: string) => text.replace(/\/0+(?=[0-9A-F])/, '/').trim();
  return plain(a) === plain(b);
}

function found<Value>(value: Value | undefined, what: string): Value {
  if (value === undefined) throw new Error(`not in the archived WAL: ${what}`);
  return value;
}
