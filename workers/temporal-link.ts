import { Client, WorkflowNotFoundError } from '@temporalio/client';
import { NativeConnection, type NativeConnectionOptions, type Worker } from '@temporalio/worker';
import { setTimeout as delay } from 'node:timers/promises';
import type { InstanceFacts } from '../activities/cluster.ts';
import { messageOf } from '../core/errors.ts';
import { clusterWorkflowId, instanceSignal } from '../workflows/interface.ts';
import { explainTrouble } from './connection-trouble.ts';
import { rateLimited, type Log } from './log.ts';
import { requireSharedKey } from './payload-key-check.ts';
import { registerSearchAttributes } from './search-attributes.ts';
import { temporalSettings } from './temporal-settings.ts';
import type { CreateWorkers } from './temporal-workers.ts';

export interface TemporalLinkOptions {
  readonly environment: NodeJS.ProcessEnv;
  readonly log: Log;
  /** The workers of one connection. */
  readonly createWorkers: CreateWorkers;
  /** Whose keeper is told what; absent where there is no instance to tell of. */
  readonly keeper?: {
    readonly namespace: string;
    readonly cluster: string;
    readonly facts: () => Promise<InstanceFacts>;
  };
}

const CONNECT_EVERY_MS = 5_000;
const LOOK_EVERY_MS = 10_000;
const ANSWER_WITHIN_MS = 5_000;
/** Each report is paid for; what changed is reported at once. */
export const REPORT_EVERY_MS = 60 * 60_000;

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
    const { connectionOptions, temporalNamespace, payloads } = temporalSettings(environment);
    const { codec, dataConverter } = payloads;
    const connection = await connect(connectionOptions);
    this.#connection = connection;
    const over = new AbortController();
    try {
      await connection.withDeadline(Date.now() + ANSWER_WITHIN_MS, () =>
        requireSharedKey(connection.workflowService, temporalNamespace, codec),
      );
      this.#searchAttributes = await registerSearchAttributes(connection, temporalNamespace, log);
      const workers = await createWorkers(connection, temporalNamespace, dataConverter);
      this.#answers = true;
      log.info({ address: connectionOptions.address, temporalNamespace }, 'connected to Temporal');
      const client = new Client({ connection, namespace: temporalNamespace, dataConverter });
      const reporting = this.#report(connection, client, over.signal);
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

  /** Looks whether the server answers, and tells the keeper what this instance is: at once when that changes. */
  async #report(connection: NativeConnection, client: Client, over: AbortSignal): Promise<void> {
    const { log } = this.#options;
    const until = AbortSignal.any([over, this.#stopping.signal]);
    const tell = this.#teller(connection, client);
    // After an outage the keeper may be another one, which knows nobody.
    let wasAway = false;
    while (!until.aborted) {
      try {
        await this.askServer();
        this.#answers = true;
        await tell(wasAway);
        wasAway = false;
      } catch (error) {
        this.#answers = false;
        wasAway = true;
        log.debug({ error }, 'the keeper could not be told');
      }
      await delay(LOOK_EVERY_MS, undefined, { signal: until }).catch(() => {});
    }
  }

  #teller(connection: NativeConnection, client: Client): (anew: boolean) => Promise<void> {
    const { keeper } = this.#options;
    if (!keeper) return async () => {};
    const handle = client.workflow.getHandle(clusterWorkflowId(keeper.namespace, keeper.cluster));
    let told = '';
    let toldAt = 0;
    return async (anew) => {
      const now = await keeper.facts();
      const text = JSON.stringify(now);
      if (!anew && text === told && Date.now() - toldAt <= REPORT_EVERY_MS) return;
      try {
        await connection.withDeadline(Date.now() + ANSWER_WITHIN_MS, () =>
          handle.signal(instanceSignal, now),
        );
        told = text;
        toldAt = Date.now();
      } catch (error) {
        // Nothing applied yet, or Temporal's state was lost: whoever applies starts the keeper, which asks around.
        if (!(error instanceof WorkflowNotFoundError)) throw error;
        told = '';
      }
    };
  }
}

async function connect(options: NativeConnectionOptions): Promise<NativeConnection> {
  try {
    return await NativeConnection.connect(options);
  } catch (error) {
    const why = await explainTrouble(options);
    throw why ? new Error(`${options.address} does not answer: ${why}`, { cause: error }) : error;
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
