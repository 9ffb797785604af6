import { Context } from '@temporalio/activity';
import { setTimeout as delay } from 'node:timers/promises';
import type { ClusterReference, InstanceRole } from './cluster.ts';

/**
 * `working`: the last thing that happened was a success · `failing`: a failure · `idle`: nothing was asked yet ·
 * `off`: PostgreSQL has no data directory here, or the agent does not run.
 */
export type ArchiveHealth = 'working' | 'failing' | 'idle' | 'off';

/** How WAL archiving stands on one instance. Times are RFC 3339. */
export interface ArchiveReport {
  readonly instance: string;
  readonly role: InstanceRole;
  readonly at: string;
  readonly health: ArchiveHealth;
  readonly lastArchived?: string;
  readonly lastArchivedAt?: string;
  /** Since the worker started. */
  readonly archivedCount: number;
  readonly failedCount: number;
  readonly lastError?: string;
  /** Files PostgreSQL waits to have archived, and about how many bytes of WAL they are. */
  readonly waitingFiles: number;
  readonly waitingBytes: number;
}

export interface ObserveArchivingInput extends ClusterReference {
  readonly instance: string;
  /** What was reported last: another health or role is reported at once. */
  readonly seen?: { readonly health: ArchiveHealth; readonly role: InstanceRole };
  /** The longest time until a report, in seconds. */
  readonly reportSeconds: number;
}

export interface WalArchivingPorts {
  readArchiving(): Promise<ArchiveReport>;
  /** Aborted when the worker begins to stop. */
  readonly stopping?: AbortSignal;
}

/** A look every so often is enough: the archiver itself does not depend on it. */
const LOOK_EVERY_MS = 5_000;

/** Observes the archiver of this worker's process. It does not archive: that goes on without Temporal. */
export function createWalArchivingActivities(ports: WalArchivingPorts) {
  return {
    /**
     * Returns when something changed, when the next report is due, and when the worker stops: it would be what the
     * worker waits for until its grace time is over. Heartbeats carry the newest report.
     */
    async observeArchiving(input: ObserveArchivingInput): Promise<ArchiveReport> {
      const context = Context.current();
      const signal = context.cancellationSignal;
      const { stopping } = ports;
      const over = stopping ? AbortSignal.any([signal, stopping]) : signal;
      const reportAt = Date.now() + input.reportSeconds * 1000;
      // An archiver that fails and works by turns costs one report in half a minute, not one a look.
      // What was idle or off has not happened yet: its first success or failure is news at once.
      const health = input.seen?.health;
      const mayFlap = health === 'working' || health === 'failing';
      const changeCountsAt = mayFlap ? Date.now() + Math.min(30_000, input.reportSeconds * 500) : 0;
      const beatEveryMs = Math.min(5 * 60_000, (context.info.heartbeatTimeoutMs ?? 900_000) / 3);
      let beatAt = 0;
      for (;;) {
        const report = await ports.readArchiving();
        const isDue = Date.now() >= reportAt || stopping?.aborted;
        if (isDue || (changed(report, input) && Date.now() >= changeCountsAt)) return report;
        if (Date.now() >= beatAt) {
          context.heartbeat(report);
          beatAt = Date.now() + beatEveryMs;
        }
        await delay(Math.max(10, Math.min(LOOK_EVERY_MS, reportAt - Date.now())), undefined, {
          signal: over,
        }).catch(() => {});
        if (signal.aborted) throw signal.reason;
      }
    },
  };
}

function changed(report: ArchiveReport, { seen }: ObserveArchivingInput): boolean {
  return seen === undefined || report.health !== seen.health || report.role !== seen.role;
}

export type WalArchivingActivities = ReturnType<typeof createWalArchivingActivities>;
