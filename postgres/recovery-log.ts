import type { ErrorCode } from '../core/errors.ts';
import { ERRORS } from '../core/errors.ts';
import { parseTargetTime, type Micros } from '../core/target-time.ts';

/** What PostgreSQL wrote about a recovery, with `log_line_prefix = '%m [%p] '`, in UTC and in English. */
export interface RecoveryStory {
  /** The last segment (or history) that came from the archive. */
  readonly lastRestored?: string;
  /** How many segments came. */
  readonly segments: number;
  /** Where the last record that was read begins; one that it stopped before was not replayed. */
  readonly lastRecordLsn?: string;
  /** When the last transaction that was replayed ended. */
  readonly lastTransaction?: Micros;
  /** Why it stopped at a target, in PostgreSQL's words; absent when the WAL came to its end. */
  readonly stop?: { readonly text: string; readonly time?: Micros };
  readonly hasBegun: boolean;
  /** Milliseconds since 1970: the first line, the end of replay, the first connection that is let in. */
  readonly beganAt?: number;
  readonly replayedAt?: number;
  readonly readyAt?: number;
}

const RESTORED = /restored log file "([0-9A-F]{8,24}(?:\.history)?)" from archive/g;

/** Reads a server's log. */
export function readRecoveryStory(log: string): RecoveryStory {
  const restored = [...log.matchAll(RESTORED)].map((match) => match[1] as string);
  const segments = restored.filter((name) => /^[0-9A-F]{24}$/.test(name));
  const stopText = /recovery stopping (?:before|after|at) [^\n]*/.exec(log)?.[0];
  const stopTime = timeIn(/, time ([^\n]+)/.exec(stopText ?? '')?.[1]);
  const lastTransaction = timeIn(lastOf(log, /last completed transaction was at log time ([^\n]+)/g));
  const lastRecordLsn = lastOf(log, /redo done at ([0-9A-F]+\/[0-9A-F]+)/g);
  const began = momentOf(log, /^([^\n]*?) \[\d+\] LOG: {2}starting PostgreSQL/m);
  const replayed = momentOf(log, /^([^\n]*?) \[\d+\] LOG: {2}redo (?:done|is not required)/m);
  const ready = momentOf(log, /^([^\n]*?) \[\d+\] LOG: {2}database system is ready to accept connections/m);
  return {
    segments: new Set(segments).size,
    hasBegun: /LOG: {2}redo starts at/.test(log),
    ...(restored.length > 0 && { lastRestored: restored.at(-1) as string }),
    ...(lastRecordLsn !== undefined && { lastRecordLsn }),
    ...(lastTransaction !== undefined && { lastTransaction }),
    ...(stopText !== undefined && {
      stop: { text: stopText, ...(stopTime !== undefined && { time: stopTime }) },
    }),
    ...(began !== undefined && { beganAt: began }),
    ...(replayed !== undefined && { replayedAt: replayed }),
    ...(ready !== undefined && { readyAt: ready }),
  };
}

function lastOf(text: string, pattern: RegExp): string | undefined {
  return [...text.matchAll(pattern)].at(-1)?.[1];
}

function timeIn(text: string | undefined): Micros | undefined {
  if (text === undefined) return undefined;
  try {
    return parseTargetTime(text.trim());
  } catch {
    // another zone's abbreviation, or words we do not know: then it is not known
    return undefined;
  }
}

/** `2026-11-24 02:00:00.123 UTC`, as `%m` writes it. */
function momentOf(text: string, pattern: RegExp): number | undefined {
  const match = /^(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d\.\d{3}) UTC$/.exec(pattern.exec(text)?.[1] ?? '');
  return match ? Date.parse(`${match[1]}T${match[2]}Z`) : undefined;
}

/** Why a server ended in its recovery, and whom that blames. */
export interface RecoveryFailure {
  /** `content`: the backup or the WAL is bad · `here`: this host could not do it, which says nothing about them. */
  readonly blames: 'content' | 'here';
  readonly code: ErrorCode;
  readonly message: string;
  /** The WAL file at which it happened, when that is known. */
  readonly file?: string;
  /** A resource manager was missing: with the extension's library it may go. */
  readonly needsLibraries?: boolean;
}

/** What `wal-fetch` says when the archive itself is at fault. Everything else it says is about the way to it. */
const CONTENT_CODES: readonly ErrorCode[] = [
  'object-damaged',
  'object-missing',
  'wal-foreign',
  'wal-hole',
  'format-invalid',
];

/** Words of a server about its place, its memory, its settings: nothing in a database can cause them. */
const OF_THE_PLACE = [
  /No space left on device|Disk quota exceeded/,
  /Input\/output error|Read-only file system|Permission denied|Too many open files/,
  /out of memory|Cannot allocate memory|could not (?:map|create|resize) .*shared memory/,
  /terminated by signal (?:7|9|15)\b/,
  /could not access file "[^"]+": No such file|could not load library|incompatible library/,
  /configuration file .* contains errors|unrecognized configuration parameter|invalid value for parameter/,
  /lock file "[^"]+" already exists|could not bind|could not create any Unix-domain sockets/,
  /insufficient parameter settings|database files are incompatible with (?:server|operating system)/,
  /maximum number of prepared transactions reached|could not find free replication state/,
  /the database system is shutting down|not supported by (?:this )?build/,
];

/** Words that blame the content although replay has not begun yet. */
const OF_THE_CONTENT = [
  /could not locate (?:a valid|required) checkpoint record/,
  /invalid data in file "backup_label"|could not find redo location/,
  /requested timeline \d+ (?:is not a child|does not contain)/,
  /WAL ends before|recovery ended before configured recovery target|before consistent recovery point/,
  /incorrect checksum in control file|^PANIC/,
];

/**
 * Judges a server that ended before it let anybody in. What a database's content can't have caused is never blamed
 * on it; what replay ran into after it had begun is.
 *
 * @param log as `readRecoveryStory` has it
 */
export function judgeRecoveryFailure(log: string): RecoveryFailure {
  const { hasBegun, lastRestored: file } = readRecoveryStory(log);
  const complaints = [
    ...log.matchAll(/(?:FATAL|PANIC|ERROR): {2}[^\n]+|process \(PID \d+\) was terminated by signal [^\n]+/g),
  ].map(([text]) => text);
  const plain = (text: string) => text.replace(/^(?:FATAL|PANIC|ERROR): {2}/, '');

  const place = complaints.find((text) => OF_THE_PLACE.some((pattern) => pattern.test(text)));
  if (place !== undefined) {
    const code = OF_THE_PLACE[0]?.test(place) ? 'disk-full' : 'postgres-unavailable';
    return { blames: 'here', code, message: plain(place) };
  }
  if (/received (?:fast|immediate|smart) shutdown request/.test(log)) {
    return { blames: 'here', code: 'postgres-unavailable', message: 'somebody ended the server' };
  }
  const fetch = fetchFailure(log);
  if (fetch !== undefined) return fetch;
  const [first] = complaints;
  const message = first === undefined ? 'without a reason in its log' : plain(first);
  if (/resource manager with ID \d+ not registered/.test(log)) {
    return { blames: 'here', code: 'postgres-unsuitable', message, needsLibraries: true };
  }
  const isOfContent =
    first !== undefined && (hasBegun || OF_THE_CONTENT.some((pattern) => pattern.test(first)));
  return isOfContent
    ? { blames: 'content', code: 'recovery-failed', message, ...(file !== undefined && { file }) }
    : { blames: 'here', code: 'postgres-unavailable', message };
}

/** The last complaint of `wal-fetch`, if a fetch is what stopped the recovery. */
function fetchFailure(log: string): RecoveryFailure | undefined {
  const stopped = /could not restore file "([^"]+)" from archive/.exec(log);
  if (!stopped) return undefined;
  const complaint = [...log.matchAll(/walkeep: wal-fetch: ([a-z-]+): ([^\n]*)/g)].at(-1);
  const file = stopped[1] as string;
  if (!complaint) {
    return {
      blames: 'here',
      code: 'postgres-unavailable',
      message: `restore_command failed for ${file}`,
      file,
    };
  }
  const code = isErrorCode(complaint[1]) ? complaint[1] : 'store-unavailable';
  const message = (complaint[2] as string).trim();
  return { blames: CONTENT_CODES.includes(code) ? 'content' : 'here', code, message, file };
}

function isErrorCode(text: string | undefined): text is ErrorCode {
  return text !== undefined && Object.hasOwn(ERRORS, text);
}
