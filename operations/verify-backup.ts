import { hostname } from 'node:os';
import { BackupError, isBackupError, messageOf } from '../core/errors.ts';
import { parseDuration } from '../core/duration.ts';
import type { RecoveryTarget } from '../core/recovery.ts';
import type { Verification } from '../core/verification.ts';
import { exceededBudget } from '../core/verification-choice.ts';
import type { ScheduledVerificationManifest } from '../manifests/scheduled-verification.ts';
import { readBackup } from '../repository/catalogue.ts';
import { placeHold, releaseHold } from '../repository/holds.ts';
import type { Repository } from '../repository/repository.ts';
import { isBeingDeleted } from '../repository/tombstones.ts';
import { listVerifications } from '../repository/verifications.ts';
import type { StoreConfig } from '../stores/store-config.ts';
import type { RepositoryReference } from './recovery-file.ts';
import { chooseVerification, measure, type ChosenVerification } from './verification-choice.ts';
import { Damage } from './verification-damage.ts';
import { thereAfterAll } from './verification-listing.ts';
import { Evidence } from './verification-evidence.ts';
import { proveCopy } from './verification-copy.ts';
import type { Run } from './verification-run.ts';
import {
  cleanLeftovers,
  createScratch,
  removeScratch,
  requireOwnFileSystem,
  requireRoom,
} from './verification-scratch.ts';

export type VerificationChecks = ScheduledVerificationManifest['spec']['checks'];

/** What is to be verified, and by which rules. Plain JSON. */
export interface VerifyRequest {
  /** Of the evidence. The same for all attempts of one verification. */
  readonly id: string;
  /** Equal seeds choose the same backup and moment. */
  readonly seed: string;
  readonly namespace: string;
  readonly cluster: string;
  /** The ScheduledVerification it belongs to. */
  readonly name?: string;
  /** `latest`, `oldest`, `random`, `stalest`, or a backup's id or name. */
  readonly backup: string;
  readonly target: 'end' | 'random' | RecoveryTarget;
  readonly checks: VerificationChecks;
  /** Like `20%`, of the repository's bytes a day; `null`: as much as it takes. */
  readonly readBudget: string | null;
  readonly scratch: ScheduledVerificationManifest['spec']['scratch'];
  /** Like `6h`. */
  readonly deadline: string;
  /** How much its server gives way to others, 0 to 19. */
  readonly nice?: number;
  /** Parts unpacked side by side. */
  readonly jobs?: number;
}

export interface VerifyPorts {
  readonly repository: Repository;
  /** What `repository` lies in: every thread opens it for itself. */
  readonly store?: StoreConfig | undefined;
  /** How `wal-fetch` finds the repository again. */
  readonly reference: RepositoryReference;
  /** The line that PostgreSQL runs to get WAL. @param socketPath where this process answers faster than a new one would */
  readonly restoreCommand: (socketPath: string) => string;
  /** Where verifications have their directories when nothing else is said. */
  readonly scratchRoot: string;
  /** The data directory of the production server on this host. */
  readonly pgdata?: string | undefined;
  /** Where PostgreSQL's programs are, when somebody has said it. */
  readonly binDirectory?: string | undefined;
  readonly instance: string;
  readonly walkeepVersion: string;
  readonly now?: () => Date;
}

export interface VerifyProgress {
  readonly phase: 'planning' | 'restoring' | 'manifest' | 'replaying' | 'checking' | 'pages' | 'cleaning';
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export interface VerifyOptions {
  readonly signal: AbortSignal;
  readonly onProgress?: (progress: VerifyProgress) => void;
}

/** What became of one attempt. Plain JSON. */
export interface VerifyOutcome {
  readonly verification: Verification;
  /** Of `not-tried`: whether another attempt, unchanged, may succeed. */
  readonly mayTryAgain: boolean;
}

/** How much longer than its deadline a verification's hold lasts: whoever cleans up still needs the records. */
const HOLD_MARGIN_MS = 3_600_000;
const RELEASE_MS = 30_000;
const DAY_MS = 86_400_000;

/**
 * Proves a backup by restoring it: fetches and hashes it, replays WAL to the target, starts PostgreSQL in isolation,
 * checks what is there, and removes all of it again (C6). Nothing is written to the repository but a hold for the time
 * that it takes (C5); the evidence is the caller's to record.
 *
 * It always comes to evidence: `verified`; `damaged`, where a check names what is bad; or `not-tried`, when something
 * kept it from finding out, which says nothing about the backup. Servers and directories that killed verifications
 * left behind are removed first.
 *
 * @throws only `signal`'s reason, after its server has ended and its directory is gone
 */
export async function verifyBackup(
  ports: VerifyPorts,
  request: VerifyRequest,
  { signal, onProgress = () => {} }: VerifyOptions,
): Promise<VerifyOutcome> {
  const now = ports.now ?? (() => new Date());
  const evidence = new Evidence({
    id: request.id,
    ...(request.name !== undefined && { name: request.name }),
    namespace: request.namespace,
    cluster: request.cluster,
    host: hostname(),
    instance: ports.instance,
    walkeepVersion: ports.walkeepVersion,
    target: describeTarget(request.target),
    startedAt: now(),
  });
  const deadlineMs = parseDuration(request.deadline);
  const deadline = AbortSignal.timeout(deadlineMs);
  const run: Run = {
    ports,
    request,
    evidence,
    root: request.scratch.directory ?? ports.scratchRoot,
    deadlineAt: Date.now() + deadlineMs,
    signal: AbortSignal.any([signal, deadline]),
    onProgress,
  };
  try {
    await attempt(run);
    return { verification: evidence.concluded('verified', now()), mayTryAgain: false };
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    if (error instanceof Damage) {
      evidence.addCheck(error.check);
      const excuse = (await goneMeanwhile(run, signal)) ?? (await listedWrongly(run, error, signal));
      if (excuse !== undefined) return notTried(evidence, excuse, now());
      return { verification: evidence.concluded('damaged', now(), error.message), mayTryAgain: false };
    }
    return notTried(evidence, deadline.aborted ? tooLate(request.deadline, error) : error, now());
  }
}

function describeTarget(target: VerifyRequest['target']): Verification['target'] {
  return { kind: typeof target === 'string' ? target : 'explicit' };
}

function notTried(evidence: Evidence, error: unknown, at: Date): VerifyOutcome {
  // What nobody foresaw may pass; how often it is tried is the caller's to bound.
  const mayTryAgain = isBackupError(error) ? error.retryable && error.code !== 'deadline-exceeded' : true;
  const why = isBackupError(error) ? `${error.message}; ${error.hint}` : messageOf(error);
  return { verification: evidence.concluded('not-tried', at, why), mayTryAgain };
}

function tooLate(deadline: string, cause: unknown): BackupError {
  return new BackupError('deadline-exceeded', `the verification did not end within ${deadline}`, {
    cause,
    hint: 'give it more time (deadline), or find out what took it',
  });
}

async function attempt(run: Run): Promise<void> {
  const { ports, request, evidence, signal, root } = run;
  run.onProgress({ phase: 'planning', doneBytes: 0, totalBytes: 0 });
  for (const told of await cleanLeftovers(root, request.id)) evidence.warn(told);
  requireOwnFileSystem({ root, isGiven: request.scratch.directory !== null, pgdata: ports.pgdata });
  const chosen = await chooseVerification(ports.repository, request, {
    signal,
    onBackup: (backup) => evidence.named(backup),
  });
  evidence.chose(chosen);
  await holding(run, chosen, async () => {
    const size = await sizeWithinBudget(run, chosen);
    requireRoom({ root, neededBytes: size.scratchBytes, minFreePercent: percentOf(request.scratch.minFree) });
    const scratch = await createScratch(root, request.id, `${request.namespace}/${request.cluster}`);
    try {
      await proveCopy(run, chosen, scratch, size);
    } finally {
      run.onProgress({ phase: 'cleaning', doneBytes: 0, totalBytes: 0 });
      await removeScratch(scratch);
    }
  });
}

/** Keeps retention away from the backup and its WAL while `work` reads them (D5). */
async function holding(run: Run, { plan }: ChosenVerification, work: () => Promise<void>): Promise<void> {
  const { ports, request, evidence, signal } = run;
  const { repository } = ports;
  const id = `verification-${request.id}`;
  try {
    const hold = {
      id,
      kind: 'verification' as const,
      backupId: plan.backupId,
      firstSegment: plan.firstSegment,
      timelines: plan.timelinePath.map(({ timeline }) => timeline),
      reason: `verification ${request.id} on ${hostname()} reads it`,
      lastsMs: Math.max(1, run.deadlineAt - Date.now()) + HOLD_MARGIN_MS,
    };
    await placeHold(repository, hold, signal);
  } catch (error) {
    if (!isBackupError(error, 'access-denied')) throw error;
    evidence.warn(
      `this key may not write, so nothing keeps retention from the backup meanwhile: ${error.message}`,
    );
  }
  try {
    if (await isBeingDeleted(repository, plan.backupId, signal)) throw beingDeleted(plan.backupId);
    await work();
  } finally {
    // Even when all else was aborted. One that stays runs out by itself.
    await releaseHold(repository, id, AbortSignal.timeout(RELEASE_MS)).catch((error: unknown) => {
      evidence.warn(`the hold ${id} could not be released and lasts until it runs out: ${messageOf(error)}`);
    });
  }
}

function beingDeleted(backupId: string): BackupError {
  return new BackupError('verification-impossible', `backup ${backupId} is being deleted by retention`);
}

async function sizeWithinBudget({ ports, request, signal }: Run, chosen: ChosenVerification) {
  const { repository } = ports;
  const percent = request.readBudget === null ? undefined : percentOf(request.readBudget);
  const size = await measure(repository, chosen, { wholeRepository: percent !== undefined, signal });
  if (percent === undefined) return size;
  const now = (ports.now ?? (() => new Date()))().getTime();
  // One that can't be read has read nothing that is known.
  const past = await listVerifications(repository, signal, {
    since: new Date(now - DAY_MS),
    onProblem: () => {},
  });
  const why = exceededBudget({
    percent,
    repositoryBytes: size.repositoryBytes ?? 0,
    past: past.map(({ startedAt, storedBytes = 0 }) => ({ startedAt: Date.parse(startedAt), storedBytes })),
    neededBytes: size.storedBytes,
    now,
  });
  if (why === undefined) return size;
  throw new BackupError('verification-impossible', `the read budget is used up: ${why}`, {
    hint: 'wait, or raise readBudget in the ScheduledVerification',
  });
}

function percentOf(text: string): number {
  const match = /^(\d{1,3})%$/.exec(text);
  if (match) return Number(match[1]);
  throw new BackupError('input-invalid', `not a percentage: "${text}"`, { hint: 'write it like 20%' });
}

/** Whether what seems damaged was deleted under our hands: then it is no damage. */
async function goneMeanwhile(
  { ports, evidence }: Run,
  signal: AbortSignal,
): Promise<BackupError | undefined> {
  const { backupId } = evidence;
  if (backupId === undefined) return undefined;
  try {
    const limit = AbortSignal.any([signal, AbortSignal.timeout(RELEASE_MS)]);
    if (await isBeingDeleted(ports.repository, backupId, limit)) return beingDeleted(backupId);
    const info = await readBackup(ports.repository, backupId, limit);
    return info === undefined ? beingDeleted(backupId) : undefined;
  } catch {
    // It can't be told now; the finding stands.
    return undefined;
  }
}

/** Whether what a listing did not show is there all the same: a store whose listings are late or cut is no damage. */
async function listedWrongly(
  { ports, evidence }: Run,
  { notListed }: Damage,
  signal: AbortSignal,
): Promise<BackupError | undefined> {
  if (notListed === undefined) return undefined;
  try {
    const limit = AbortSignal.any([signal, AbortSignal.timeout(RELEASE_MS)]);
    const found = await thereAfterAll(ports.repository, notListed, evidence.backupId, limit);
    if (found === undefined) return undefined;
    return new BackupError(
      'store-unavailable',
      `a listing of ${ports.repository.url} lacked ${found}, which is there`,
    );
  } catch {
    // It can't be told now; the finding stands.
    return undefined;
  }
}
