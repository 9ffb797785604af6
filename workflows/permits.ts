import {
  CancellationScope,
  ChildWorkflowCancellationType,
  condition,
  defineQuery,
  defineSignal,
  getExternalWorkflowHandle,
  ParentClosePolicy,
  setHandler,
  startChild,
  WorkflowIdReusePolicy,
  workflowInfo,
} from '@temporalio/workflow';
import { WorkflowExecutionAlreadyStartedError } from '@temporalio/common';
import type { Caps } from '../activities/cluster.ts';
import { permitId, type CapacityState, type PermitRequest } from './capacity-state.ts';
import { failure } from './failures.ts';
import { capacityWorkflowId, WORKFLOW, WORKFLOW_QUEUE } from './interface.ts';

/** What `capacity` tells who asked. */
export interface PermitNews {
  readonly id: string;
  readonly granted: boolean;
  /** From 1; only while it waits. */
  readonly place?: number;
  readonly of?: number;
}

export interface CapacityInput {
  /** `host/<name>` or `store/<place>`. */
  readonly key: string;
  /** Between two looks at who waits and who holds a place, in seconds; by default it depends on their number. */
  readonly lookSeconds?: number;
}

// Of `capacity`.
export const requestPermitSignal = defineSignal<[PermitRequest]>('request');
export const releasePermitSignal = defineSignal<[{ readonly id: string }]>('release');
export const capacityQuery = defineQuery<CapacityState>('status');
/** Of whoever asks it for a place. Sent again from time to time: not reaching it shows that it has ended. */
export const permitSignal = defineSignal<[PermitNews]>('permit');

/** A place among the backups that share something. */
export interface Want {
  readonly key: string;
  readonly limit: number;
}

/**
 * What a backup on `host` needs a place at. Always the host first: two that wait for each other's second place would
 * wait for ever.
 */
export function wantsOf(caps: Caps | undefined, host: string): Want[] {
  if (!caps) return [];
  return [
    ...(caps.perHost === undefined ? [] : [{ key: `host/${host}`, limit: caps.perHost }]),
    ...(caps.perStore === undefined ? [] : [{ key: `store/${caps.store}`, limit: caps.perStore }]),
  ];
}

/** Where somebody waits, for people. */
export interface Turn {
  readonly key: string;
  /** Both unknown until the first answer. */
  readonly place?: number;
  readonly of?: number;
}

export interface PermitTerms {
  readonly kind: PermitRequest['kind'];
  /** Until when to wait, ms since 1970. */
  readonly deadline: number;
  /** When the place may be taken away at the latest, ms since 1970. */
  readonly expiresAt: number;
  /** Called with each change while it waits, and with `undefined` when it does not any more. */
  readonly onTurn?: (turn: Turn | undefined) => void;
}

export interface HeldPermits {
  readonly waitedMs: number;
  /** Gives all places back. Never throws. */
  release(): Promise<void>;
}

/** A lost queue (terminated, or Temporal's state) is found by asking again. */
const ASK_AGAIN_MS = 10 * 60_000;

/**
 * A run's places among the backups that share a host or a store. Made before the first `await` of a workflow, so that
 * no answer is missed.
 */
export class Permits {
  readonly #news = new Map<string, PermitNews>();
  #asked = 0;
  #onNews: () => void = () => {};

  constructor() {
    setHandler(
      permitSignal,
      (news) => {
        // What was given back is none of ours any more.
        if (!this.#news.has(news.id)) return;
        this.#news.set(news.id, news);
        this.#onNews();
      },
      { description: 'A shared host or store grants a place, or tells how many are before this run.' },
    );
  }

  /**
   * Waits for a place at each of `wants`, in their order, and holds all of them. Whatever goes wrong, none is kept.
   *
   * @throws ApplicationFailure `deadline-exceeded`
   */
  async acquire(wants: readonly Want[], terms: PermitTerms): Promise<HeldPermits> {
    const { workflowId, runId } = workflowInfo();
    const startedAt = Date.now();
    const held: { readonly key: string; readonly id: string }[] = [];
    const release = () =>
      CancellationScope.nonCancellable(async () => {
        for (const { key, id } of held.splice(0).toReversed()) {
          this.#news.delete(id);
          // Nobody there has nothing to be given back.
          await capacityOf(key)
            .signal(releasePermitSignal, { id })
            .catch(() => {});
        }
      });
    try {
      for (const { key, limit } of wants) {
        const { kind, expiresAt } = terms;
        const n = ++this.#asked;
        const request = { workflowId, runId, n, kind, limit, expiresAt };
        const id = permitId(request);
        held.push({ key, id });
        this.#news.set(id, { id, granted: false });
        await this.#wait(key, request, terms);
      }
    } catch (error) {
      await release();
      throw error;
    } finally {
      terms.onTurn?.(undefined);
    }
    return { waitedMs: Date.now() - startedAt, release };
  }

  async #wait(key: string, request: PermitRequest, { deadline, onTurn }: PermitTerms): Promise<void> {
    const id = permitId(request);
    const granted = () => this.#news.get(id)?.granted === true;
    this.#onNews = () => {
      const { place, of } = this.#news.get(id) ?? {};
      if (!granted()) onTurn?.({ key, ...(place !== undefined && of !== undefined && { place, of }) });
    };
    this.#onNews();
    try {
      for (;;) {
        await ask(key, request);
        const leftMs = deadline - Date.now();
        const summary = `wait for a turn at ${key}`;
        if (leftMs > 0 && (await condition(granted, Math.min(ASK_AGAIN_MS, leftMs), { summary }))) return;
        if (granted()) return;
        if (Date.now() >= deadline) throw tooLate(key, this.#news.get(id));
      }
    } finally {
      this.#onNews = () => {};
    }
  }
}

function tooLate(key: string, news: PermitNews | undefined) {
  const turn = news?.place === undefined ? '' : `: ${ordinal(news.place)} of ${news.of ?? news.place}`;
  return failure(
    'deadline-exceeded',
    `no turn came at ${key} before the deadline${turn}`,
    'allow more backups at once there, spread the schedules, or give a longer deadline',
  );
}

/** `1st`, `2nd`, `3rd`, `4th`, … */
export function ordinal(n: number): string {
  const teen = n % 100 >= 11 && n % 100 <= 13;
  return `${n}${(teen ? undefined : ['th', 'st', 'nd', 'rd'][n % 10]) ?? 'th'}`;
}

/** For people: `waits for its turn: 5th of 12 (store/s3://backups)`. */
export function turnText({ key, place, of }: Turn): string {
  const where = place === undefined ? '' : ` ${ordinal(place)} of ${of ?? place}`;
  return `waits for its turn:${where} (${key})`;
}

/** Asks, and starts the queue where there is none yet. A cancel does not come between: what was asked is given back. */
function ask(key: string, request: PermitRequest): Promise<void> {
  return CancellationScope.nonCancellable(async () => {
    for (let left = 3; ; left -= 1) {
      try {
        return await capacityOf(key).signal(requestPermitSignal, request);
      } catch (error) {
        if (left === 0) throw error;
        await startCapacity(key);
      }
    }
  });
}

async function startCapacity(key: string): Promise<void> {
  const input: CapacityInput = { key };
  try {
    // It outlives whoever came first, and is nobody's to cancel.
    await startChild(WORKFLOW.capacity, {
      workflowId: capacityWorkflowId(key),
      taskQueue: WORKFLOW_QUEUE,
      args: [input],
      parentClosePolicy: ParentClosePolicy.ABANDON,
      cancellationType: ChildWorkflowCancellationType.ABANDON,
      workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
      staticSummary: `who may run at ${key}`,
    });
  } catch (error) {
    if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
  }
}

function capacityOf(key: string) {
  return getExternalWorkflowHandle(capacityWorkflowId(key));
}
