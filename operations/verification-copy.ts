import { chownSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BackupError, isBackupError, messageOf } from '../core/errors.ts';
import { failpoint } from '../core/failpoint.ts';
import { formatMicros, parseTargetTime } from '../core/target-time.ts';
import { judgeReach } from '../core/verification-reach.ts';
import { isolatedSettings, neededLibraries, scratchConfiguration } from '../postgres/isolated-settings.ts';
import { findPrograms } from '../postgres/programs.ts';
import type { RecoveryStory } from '../postgres/recovery-log.ts';
import { formatSettings, type Setting } from '../postgres/recovery-settings.ts';
import { readBackupRecord } from '../repository/backup-record.ts';
import { RESTORE_MARKER } from './restore-targets.ts';
import { checkRelations } from './verification-amcheck.ts';
import type { ChosenVerification, VerificationSize } from './verification-choice.ts';
import { Damage } from './verification-damage.ts';
import { startFetcher } from './verification-fetcher.ts';
import { checkAgainstManifest, restoreTwice } from './verification-restore.ts';
import { checkPages } from './verification-pages.ts';
import { askQuery } from './verification-queries.ts';
import { isRunningOut, type Scratch } from './verification-scratch.ts';
import {
  readBranch,
  readConfigured,
  RecoveryEnded,
  startScratchServer,
  waitUntilRecovered,
  type ScratchServer,
} from './verification-server.ts';
import {
  createReader,
  openSessions,
  readBootstrapRole,
  requireIsolation,
  serverVersion,
  type Sessions,
} from './verification-sessions.ts';
import { DEFAULT_NICE, seconds, type Copy, type Run } from './verification-run.ts';

/**
 * Restores into the scratch directory, replays, starts, checks. The server has ended when this returns or throws.
 *
 * @throws Damage naming what is bad; BackupError for what says nothing about the backup
 */
export async function proveCopy(
  run: Run,
  chosen: ChosenVerification,
  scratch: Scratch,
  size: VerificationSize,
): Promise<void> {
  failpoint('verify.scratch-made');
  const { ports, request, signal } = run;
  const find = (majorVersion: number) =>
    findPrograms({ majorVersion, binDirectory: ports.binDirectory, pgdata: ports.pgdata, signal });
  const recorded = chosen.info.version === undefined ? undefined : Math.floor(chosen.info.version / 10_000);
  // Before anything is downloaded, where the record says which version it takes.
  const early = recorded === undefined ? undefined : await find(recorded);
  const restored = await restoreTwice(run, chosen, scratch, size);
  failpoint('verify.restored');
  const { majorVersion } = restored;
  const copy: Copy = { run, chosen, scratch, majorVersion, programs: early ?? (await find(majorVersion)) };
  if (request.checks.manifest) await checkAgainstManifest(copy);
  await startAndCheck(copy);
}

async function startAndCheck(copy: Copy): Promise<void> {
  const { run, scratch } = copy;
  const fetcher = await startFetcher(run.ports.repository, scratch);
  let server: ScratchServer | undefined;
  try {
    const recovered = await recover(copy, (started) => (server = started));
    await judge(copy, recovered.story);
    failpoint('verify.server-started');
    const sessions = await reach(copy, recovered, (started) => (server = started));
    await askAll(copy, sessions);
    failpoint('verify.checked');
    if (!run.request.checks.pageChecksums) return;
    await server?.stop('clean');
    run.onProgress({ phase: 'pages', doneBytes: 0, totalBytes: 0 });
    const began = performance.now();
    const check = await checkPages(scratch.data, {
      signal: run.signal,
      knownBefore: await badPagesOf(copy),
      onProgress: (doneBytes) => run.onProgress({ phase: 'pages', doneBytes, totalBytes: 0 }),
    });
    if (check.result === 'failed') throw new Damage(check);
    run.evidence.addCheck({ ...check, seconds: seconds(performance.now() - began) });
  } finally {
    await fetcher.stop();
    await server?.stop('at once');
  }
}

interface Recovered {
  readonly server: ScratchServer;
  readonly story: RecoveryStory;
  readonly settings: readonly Setting[];
}

/** Starts the server in isolation and lets it replay; with more libraries when WAL turns out to need them. */
async function recover(copy: Copy, onStart: (server: ScratchServer) => void): Promise<Recovered> {
  const { run, scratch, programs, majorVersion, chosen } = copy;
  const configured = (await readConfigured(programs, scratch, 'shared_preload_libraries', run.signal)) ?? '';
  isolateFiles(copy);
  for (let withAll = false; ; withAll = true) {
    const { needed, left } = neededLibraries(configured, withAll);
    const settings = isolatedSettings({
      majorVersion,
      segmentSize: chosen.plan.segmentSize,
      socketDirectory: scratch.socketDirectory,
      hbaFile: scratch.hbaFile,
      identFile: scratch.identFile,
      libraries: needed,
    }).concat([['config_file', scratch.configFile]]);
    const nice = run.request.nice ?? DEFAULT_NICE;
    const server = await startScratchServer({ scratch, programs, settings, nice });
    onStart(server);
    try {
      const story = await waitUntilRecovered(server, scratch, {
        signal: run.signal,
        watch: () => stopWhenFull(run),
        onProgress: (segments) =>
          run.onProgress({
            phase: 'replaying',
            doneBytes: segments * chosen.plan.segmentSize,
            totalBytes: chosen.plan.walSegments * chosen.plan.segmentSize,
          }),
      });
      return { server, story, settings };
    } catch (error) {
      if (!(error instanceof RecoveryEnded)) throw error;
      if (error.failure.needsLibraries && !withAll && left.length > 0) continue;
      throw explained(copy, error);
    }
  }
}

function stopWhenFull({ root, request }: Run): void {
  const percent = Number.parseInt(request.scratch.minFree, 10);
  if (!isRunningOut(root, percent)) return;
  throw new BackupError('disk-full', `the file system of ${root} has less than half of ${percent}% left`, {
    hint: 'the verification was stopped before others suffer; make room, or give another scratch directory',
  });
}

/** Whom the end of a recovery blames, as PostgreSQL and `wal-fetch` tell it. */
function explained({ chosen }: Copy, { failure }: RecoveryEnded): Error {
  const { blames, code, message, file } = failure;
  const { kind } = chosen.plan.target;
  const isUnknownTarget =
    /before configured recovery target/.test(message) && (kind === 'xid' || kind === 'name');
  if (isUnknownTarget) {
    return new BackupError('target-unreachable', `the WAL within reach does not hold the target: ${message}`);
  }
  if (blames === 'here') {
    return new BackupError(
      code,
      `PostgreSQL could not recover the copy: ${message}${file ? ` (${file})` : ''}`,
    );
  }
  return new Damage({ name: 'replay', ...(file !== undefined && { object: file }), detail: message });
}

/**
 * Takes the source's configuration out of the copy: it speaks of another machine. What the restore wrote for the
 * recovery stays.
 */
function isolateFiles({ scratch, majorVersion }: Copy): void {
  const write = (path: string, text: string) => {
    writeFileSync(path, text, { mode: 0o600 });
    if (scratch.owner) chownSync(path, scratch.owner.uid, scratch.owner.gid);
  };
  const automatic = join(scratch.data, 'postgresql.auto.conf');
  const text = readFileSync(automatic, 'utf8');
  const ours = text.lastIndexOf('# --- walkeep restore');
  if (ours < 0)
    throw new BackupError('config-invalid', `the restore left no recovery settings in ${automatic}`);
  write(automatic, text.slice(ours));
  const control = readFileSync(join(scratch.data, 'global', 'pg_control'));
  write(scratch.configFile, formatSettings(scratchConfiguration(control, majorVersion)));
  // Who gets into the directory of the socket, which is this user alone, may be anybody.
  write(scratch.hbaFile, 'local all all trust\n');
  write(scratch.identFile, '');
  rmSync(join(scratch.data, RESTORE_MARKER), { force: true });
}

async function judge({ run, chosen, scratch }: Copy, story: RecoveryStory): Promise<void> {
  const { plan, end, lastStoredAt } = chosen;
  const branch = await readBranch(scratch.data);
  if (branch === undefined) {
    throw new BackupError(
      'postgres-unavailable',
      'the copy was started and has begun no timeline of its own',
    );
  }
  const lastTransaction = story.lastTransaction;
  const replay = elapsed(story.beganAt, story.replayedAt);
  const start = elapsed(story.replayedAt, story.readyAt);
  run.evidence.measure({
    reachedLsn: branch.reachedLsn,
    timeline: branch.parent,
    walSegments: story.segments,
    ...(lastTransaction !== undefined && { reachedTime: formatMicros(lastTransaction) }),
    ...(replay !== undefined && { replaySeconds: replay }),
    ...(start !== undefined && { startSeconds: start }),
  });
  run.evidence.addCheck({
    name: 'replay',
    result: 'passed',
    detail: `${story.segments} segments from the archive`,
    ...(replay !== undefined && { seconds: replay }),
  });
  const { isRight, detail, segment } = judgeReach(plan, end?.lastRecordLsn, {
    lsn: branch.reachedLsn,
    timeline: branch.parent,
    lastRecordLsn: story.lastRecordLsn,
    lastTransaction,
    stop: story.stop,
  });
  if (!isRight)
    throw new Damage({ name: 'target', ...(segment !== undefined && { object: segment }), detail });
  run.evidence.addCheck({ name: 'target', result: 'passed', detail });
  const newest =
    lastTransaction ?? (plan.newestCommit === undefined ? undefined : parseTargetTime(plan.newestCommit));
  if (plan.target.kind === 'end' && newest !== undefined && lastStoredAt !== undefined) {
    run.evidence.measure({
      rpoSeconds: Math.max(0, seconds(lastStoredAt.getTime() - Number(newest / 1000n))),
    });
  }
}

/** Sessions on the copy. Where nobody knows its superuser, it is stopped and asked for the name. */
async function reach(
  copy: Copy,
  { server, settings }: Recovered,
  onStart: (server: ScratchServer) => void,
): Promise<Sessions> {
  const { run, scratch, programs, majorVersion } = copy;
  const request = { scratch, programs, majorVersion, deadline: run.deadlineAt, signal: run.signal };
  let sessions: Sessions;
  try {
    sessions = await openSessions(request);
  } catch (error) {
    if (!isBackupError(error, 'postgres-unsuitable')) throw error;
    await server.stop('clean');
    const name = await readBootstrapRole(request, settings);
    if (name === undefined) throw error;
    const again = await startScratchServer({
      scratch,
      programs,
      settings,
      nice: run.request.nice ?? DEFAULT_NICE,
    });
    onStart(again);
    await waitUntilRecovered(again, scratch, { signal: run.signal, watch: () => {}, onProgress: () => {} });
    sessions = await openSessions(request, name);
  }
  await requireIsolation(sessions);
  run.evidence.measure({ postgresVersion: await serverVersion(sessions) });
  run.evidence.addCheck({
    name: 'start',
    result: 'passed',
    detail: 'isolated: no archive, no slots, no network',
  });
  run.evidence.concludeTimes();
  return sessions;
}

async function askAll({ run }: Copy, sessions: Sessions): Promise<void> {
  const { queries, amcheck } = run.request.checks;
  const { evidence } = run;
  run.onProgress({ phase: 'checking', doneBytes: 0, totalBytes: 0 });
  const failures: Damage[] = [];
  const unanswered: string[] = [];
  const found = (check: Damage['check']) => {
    if (check.result === 'failed') failures.push(new Damage(check));
    else evidence.addCheck(check);
  };
  if (queries.length > 0) {
    const reader = await createReader(sessions, [...new Set(queries.map(({ database }) => database))]);
    for (const query of queries) {
      const { check, notTried } = await askQuery(sessions, reader, query);
      found(check);
      if (notTried !== undefined) unanswered.push(notTried);
    }
  }
  if (amcheck !== false) found(await checkRelations(sessions, amcheck, run.request.seed));
  const [first, ...others] = failures;
  for (const { check } of others) evidence.addCheck(check);
  if (first) throw first;
  if (unanswered.length > 0) {
    throw new BackupError('verification-impossible', unanswered.join('; '), {
      hint: 'correct the query, or what keeps it from being answered; nothing was found to be wrong',
    });
  }
}

/** Files of which bad pages were known when the backup was taken. */
async function badPagesOf({ run, chosen }: Copy): Promise<Set<string>> {
  const record = await readBackupRecord(run.ports.repository, chosen.plan.backupId, run.signal).catch(
    (error: unknown) => {
      run.evidence.warn(`the backup's record could not be read again: ${messageOf(error)}`);
      return undefined;
    },
  );
  return new Set(record?.pageChecksumFailures.map(({ path }) => path));
}

function elapsed(from: number | undefined, to: number | undefined): number | undefined {
  return from === undefined || to === undefined ? undefined : Math.max(0, seconds(to - from));
}
