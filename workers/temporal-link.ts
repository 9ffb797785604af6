import { Client, WorkflowNotFoundError } from '@temporalio/client';
import { NativeConnection, type Worker } from '@temporalio/worker';
import { setTimeout as delay } from 'node:timers/promises';
import type { InstanceFacts } from '../activities/cluster.ts';
import { messageOf } from '../core/errors.ts';
import { clusterWorkflowId, instanceSignal } from '../workflows/interface.ts';
import { rateLimited, type Log } from './log.ts';
import { registerSearchAttributes } from './search-attributes.ts';
import { temporalSettings } from './temporal-settings.ts';

export interface TemporalLinkOptions {
  readonly environment: NodeJS.ProcessEnv;
  readonly namespace: string;
  readonly cluster: string;
  readonly log: Log;
  /** The workers of one connection. */
  readonly createWorkers: (connection: NativeConnection, temporalNamespace: string) => Promise<Worker[]>;
  /** What to tell the keeper. */
  readonly facts: () => Promise<InstanceFacts>;
}

const CONNECT_EVERY_MS = 5_000;
const LOOK_EVERY_MS = 10_000;
const ANSWER_WITHIN_MS = 5_000;
/** Each report is paid for; what changed is reported at once. */
const REPORT_EVERY_MS = 10 * 60_000;

/**
 * The way to Temporal: connected for ever again, never a condition of anything that happens on this host. While it is
 * up, workers take work and the keeper is told what this instance is.
 */
export class TemporalLink {
  readonly #options: TemporalLinkOptions;
  readonly #stopping = new AbortController();
  #connection: NativeConnection | undefined;
  #answers = false;
  #searchAttributes = false;
  #done: Promise<void> | undefined;

  constructor(options: TemporalLinkOptions) {
    this.#options = options;
  }

  /** Whether the server answered when it was asked last, some seconds ago. */
  get connected(): boolean {
    return this.#answers;
  }

  get searchAttributes(): boolean {
    return this.#searchAttributes;
  }

  start(): void {
    this.#done ??= this.#keepConnected();
  }

  /** Rejects unless the server answers within a few seconds. */
  readonly askServer = async (): Promise<void> => {
    const connection = this.#connection;
    if (!connection) throw new Error('there is no connection to Temporal');
    await connection.withDeadline(Date.now() + 3_000, () => connection.workflowService.getSystemInfo({}));
  };

  /** Lets the workers end what runs within their grace time, and closes the connection. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#done;
  }

  async #keepConnected(): Promise<void> {
    const { log } = this.#options;
    const complain = rateLimited(
      (text, suppressed) => log.warn({ ...(suppressed > 0 && { suppressed }) }, text),
      60_000,
    );
    while (!this.#stopping.signal.aborted) {
      try {
        await this.#work();
      } catch (error) {
        complain(`no work from Temporal: ${messageOf(error)}; it is tried again for ever, archiving goes on`);
      }
      this.#answers = false;
      await delay(CONNECT_EVERY_MS, undefined, { signal: this.#stopping.signal }).catch(() => {});
    }
  }

  /** One connection, from its beginning to its end. */
  async #work(): Promise<void> {
    const { environment, log, createWorkers } = this.#options;
    const { connectionOptions, temporalNamespace } = temporalSettings(environment);
    const connection = await NativeConnection.connect(connectionOptions);
    this.#connection = connection;
    const over = new AbortController();
    try {
      this.#searchAttributes = await registerSearchAttributes(connection, temporalNamespace, log);
      const workers = await createWorkers(connection, temporalNamespace);
      this.#answers = true;
      log.info({ address: connectionOptions.address, temporalNamespace }, 'connected to Temporal');
      const reporting = this.#report(connection, temporalNamespace, over.signal);
      await runAll(workers, this.#stopping.signal);
      over.abort();
      await reporting;
    } finally {
      over.abort();
      this.#connection = undefined;
      await connection
        .close()
        .catch((error: unknown) => log.warn({ error }, 'the connection to Temporal did not close'));
    }
  }

  /** Tells the keeper what this instance is: at once, when that changes, and every few minutes. */
  async #report(connection: NativeConnection, temporalNamespace: string, over: AbortSignal): Promise<void> {
    const { namespace, cluster, facts, log } = this.#options;
    const client = new Client({ connection, namespace: temporalNamespace });
    const keeper = client.workflow.getHandle(clusterWorkflowId(namespace, cluster));
    const until = AbortSignal.any([over, this.#stopping.signal]);
    let told = '';
    let toldAt = 0;
    while (!until.aborted) {
      try {
        await this.askServer();
        this.#answers = true;
        const now = await facts();
        const text = JSON.stringify(now);
        if (text !== told || Date.now() - toldAt > REPORT_EVERY_MS) {
          await connection.withDeadline(Date.now() + ANSWER_WITHIN_MS, () =>
            keeper.signal(instanceSignal, now),
          );
          told = text;
          toldAt = Date.now();
        }
      } catch (error) {
        if (error instanceof WorkflowNotFoundError) {
          // Nothing applied yet, or Temporal's state was lost: whoever applies starts the keeper, which asks around.
          toldAt = Date.now();
          told = '';
        } else {
          this.#answers = false;
          log.debug({ error }, 'the keeper could not be told');
        }
      }
      await delay(LOOK_EVERY_MS, undefined, { signal: until }).catch(() => {});
    }
  }
}

/** Runs workers until they are told to stop; one that fails takes the others along. */
async function runAll(workers: readonly Worker[], stopping: AbortSignal): Promise<void> {
  const stop = () => {
    for (const worker of workers) if (worker.getState() === 'RUNNING') worker.shutdown();
  };
  const runs = workers.map(async (worker) => {
    try {
      await worker.run();
    } finally {
      stop();
    }
  });
  if (stopping.aborted) stop();
  stopping.addEventListener('abort', stop, { once: true });
  try {
    const failed = (await Promise.allSettled(runs)).find((run) => run.status === 'rejected');
    if (failed) throw failed.reason;
  } finally {
    stopping.removeEventListener('abort', stop);
  }
}
