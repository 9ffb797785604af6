import { setTimeout as delay } from 'node:timers/promises';
import type { InstanceRole } from '../activities/cluster.ts';
import type { ArchiveHealth, ArchiveReport } from '../activities/wal-archiving.ts';
import { messageOf } from '../core/errors.ts';
import { DEFAULT_SEGMENT_SIZE } from '../core/segment.ts';
import {
  createWalAgent,
  type WalAgent,
  type WalAgentEvent,
  type WalAgentPorts,
  type WalAgentStatus,
} from '../operations/wal-agent.ts';
import { readControlData } from '../postgres/control-data.ts';
import { rateLimited, type Log } from './log.ts';

export interface ArchiverPorts {
  readonly instance: string;
  readonly pgdata: string;
  /** Made anew for each start: the socket is named by the directory that is there then. */
  readonly agent: () => Omit<WalAgentPorts, 'report'>;
  readonly hasDataDirectory: () => boolean;
  readonly role: () => Promise<InstanceRole>;
  readonly log: Log;
}

const LOOK_EVERY_MS = 2_000;
/** PostgreSQL asks within a minute for what is ready; silence that lasts longer means that it asks somebody else. */
const SILENCE_MS = 5 * 60_000;

/**
 * Keeps the WAL agent running for as long as there is a data directory. It is the first thing a worker starts and the
 * last thing it stops, and depends on nothing but this host and the store.
 */
export class Archiver {
  readonly #ports: ArchiverPorts;
  readonly #stopping = new AbortController();
  readonly #startedAt = Date.now();
  #agent: WalAgent | undefined;
  #watch: Promise<void> | undefined;

  constructor(ports: ArchiverPorts) {
    this.#ports = ports;
  }

  /** Resolves when the agent listens, or when it is clear that it can't yet: it is tried again for ever. */
  async start(): Promise<void> {
    await this.#tryToStart(this.#complain);
    this.#watch = this.#keepRunning();
  }

  get running(): boolean {
    return this.#agent !== undefined;
  }

  async status(): Promise<WalAgentStatus | undefined> {
    return this.#agent?.status();
  }

  async report(): Promise<ArchiveReport> {
    const { instance, role, pgdata } = this.#ports;
    const status = await this.status();
    const segmentSize = await readControlData(pgdata).then(
      (control) => control.segmentSize,
      () => DEFAULT_SEGMENT_SIZE,
    );
    return archiveReport(status, {
      instance,
      role: await role(),
      segmentSize,
      now: Date.now(),
      since: this.#startedAt,
    });
  }

  async stop(drainMs: number): Promise<void> {
    this.#stopping.abort();
    await this.#watch;
    await this.#agent?.stop({ drainMs });
    this.#agent = undefined;
  }

  readonly #complain = rateLimited((text) => this.#ports.log.error(text), 60_000);

  async #keepRunning(): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      await delay(LOOK_EVERY_MS, undefined, { signal }).catch(() => {});
      if (!signal.aborted && !this.#agent) await this.#tryToStart(this.#complain);
    }
  }

  async #tryToStart(complain: (text: string) => void): Promise<void> {
    const { hasDataDirectory, log } = this.#ports;
    if (!hasDataDirectory()) return;
    const ports = this.#ports.agent();
    const agent = createWalAgent({
      ...ports,
      report: (event) => logAnswer(log, event),
      alert: (message) => log.warn(message),
    });
    try {
      await agent.start();
      this.#agent = agent;
      log.info({ socket: ports.socketPath, pgdata: ports.pgdata }, 'archiving agent listens');
    } catch (error) {
      complain(`the archiving agent does not start: ${messageOf(error)}; it is tried again for ever`);
    }
  }
}

/** An agent's status as a report. Pure. */
export function archiveReport(
  status: WalAgentStatus | undefined,
  about: {
    readonly instance: string;
    readonly role: InstanceRole;
    readonly segmentSize: number;
    readonly now: number;
    /** When the worker started. */
    readonly since: number;
  },
): ArchiveReport {
  const base = { instance: about.instance, role: about.role, at: new Date(about.now).toISOString() };
  if (!status)
    return { ...base, health: 'off', archivedCount: 0, failedCount: 0, waitingFiles: 0, waitingBytes: 0 };
  const { lastArchived, lastFailure, waiting } = status;
  const lastHeard = Math.max(about.since, timeOf(lastArchived?.at), timeOf(lastFailure?.at));
  const unasked = (waiting?.files ?? 0) > 0 && about.now - lastHeard > SILENCE_MS;
  const health = healthOf(status, unasked);
  const lastError = unasked
    ? `PostgreSQL has ${waiting?.files} files to archive and does not ask for it: compare walkeep archive-command with archive_command`
    : lastFailure && `${lastFailure.name}: ${lastFailure.code}: ${lastFailure.message}`;
  return {
    ...base,
    health,
    ...(lastArchived && { lastArchived: lastArchived.name, lastArchivedAt: lastArchived.at }),
    archivedCount: status.answers.archived,
    failedCount: status.answers.failed,
    ...(lastError !== undefined && { lastError: lastError.slice(0, 300) }),
    waitingFiles: waiting?.files ?? 0,
    waitingBytes: (waiting?.segments ?? 0) * about.segmentSize,
  };
}

function healthOf({ lastArchived, lastFailure }: WalAgentStatus, unasked: boolean): ArchiveHealth {
  if (unasked) return 'failing';
  if (lastFailure && timeOf(lastFailure.at) > timeOf(lastArchived?.at)) return 'failing';
  return lastArchived ? 'working' : 'idle';
}

function logAnswer(log: Log, { request, name, answer, ms, error }: WalAgentEvent): void {
  const fields = { request, name, answer, ms: Math.round(ms) };
  if (error === undefined) log.debug(fields, `${request} ${name}: ${answer}`);
  else log.error({ ...fields, error }, `${request} ${name}: ${answer}`);
}

function timeOf(time: string | undefined): number {
  return time === undefined ? 0 : new Date(time).getTime();
}
