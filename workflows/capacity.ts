import {
  allHandlersFinished,
  condition,
  continueAsNew,
  getExternalWorkflowHandle,
  isCancellation,
  log,
  setCurrentDetails,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow';
import { capacityPage } from './capacity-page.ts';
import * as capacities from './capacity-state.ts';
import { failure } from './failures.ts';
import { capacityWorkflowId } from './interface.ts';
import {
  capacityQuery,
  permitSignal,
  releasePermitSignal,
  requestPermitSignal,
  type CapacityInput,
  type PermitNews,
} from './permits.ts';

/** What a run hands to the next one. */
export interface CarriedCapacity {
  /** By `pack`. */
  readonly state: string;
  /** When who holds a place was looked at last, ms since 1970. */
  readonly lookedAt: number;
}

/** F4: a run's history stays far below what a server may hold. */
const CONTINUE_AFTER_EVENTS = 800;
/** News on its way at once; grants come on top. */
const TOLD_AT_ONCE = 100;
const LOOK_EVERY_MS = 30_000;
/** While nobody waits, nobody needs the place of one that is gone. */
const QUIET_LOOK_MS = 10 * 60_000;
/** It ends when nobody came for so long; whoever comes next starts it again. */
const IDLE_MS = 3_600_000;

/**
 * How many backups run at once where they share a host or a store: who wants to run asks by signal, waits for its
 * turn, and gives the place back. Restores never wait.
 *
 * Its word is all there is: it is started by whoever asks first, continues as new, and ends after an hour without
 * anybody. A holder that is gone is found by not being reached, or by the end of its time.
 *
 * @param carried only given by itself, when it continues as new
 */
export async function capacity(input: CapacityInput, carried?: CarriedCapacity): Promise<void> {
  const run = new Capacity(requireKey(input), carried);
  if (await run.serve()) return;
  await condition(allHandlersFinished);
  await continueAsNew<typeof capacity>(input, run.carried());
}

function requireKey(input: CapacityInput): CapacityInput {
  // What a person may send is anything.
  const key: unknown = (input as Partial<CapacityInput> | null | undefined)?.key;
  if (typeof key === 'string' && workflowInfo().workflowId === capacityWorkflowId(key)) return input;
  throw failure(
    'input-invalid',
    'capacity: field "key": expected JSON like {"key":"host/db1"} and the workflow id "capacity/host/db1"',
  );
}

class Capacity {
  readonly #input: CapacityInput;
  #state: capacities.CapacityState;
  #lookedAt: number;
  #woken = true;
  /** Ids of permits whose holders are to hear how they stand. */
  readonly #untold = new Set<string>();
  /** News on its way. */
  readonly #telling = new Set<Promise<void>>();

  constructor(input: CapacityInput, carried?: CarriedCapacity) {
    this.#input = input;
    this.#state = carried ? capacities.unpack(carried.state) : capacities.EMPTY;
    this.#lookedAt = carried?.lookedAt ?? Date.now();
    setHandler(
      requestPermitSignal,
      (asked) => {
        if (!capacities.isRequest(asked)) return log.warn('a request that is none was passed over');
        this.#become(capacities.request(this.#state, asked, Date.now()));
        this.#untold.add(capacities.permitId(asked));
      },
      { description: 'A backup or restore asks for a place.' },
    );
    setHandler(releasePermitSignal, ({ id }) => this.#become(capacities.release(this.#state, id)), {
      description: 'A place is given back.',
    });
    setHandler(capacityQuery, () => this.#state, { description: 'Who holds a place, and who waits.' });
  }

  carried(): CarriedCapacity {
    return { state: capacities.pack(this.#state), lookedAt: this.#lookedAt };
  }

  /** @returns true when nobody needs it any more; false when it is time to continue as new */
  async serve(): Promise<boolean> {
    for (let idleSince = Date.now(); ;) {
      this.#woken = false;
      const { state, granted } = capacities.admit(capacities.expire(this.#state, Date.now()), Date.now());
      this.#state = state;
      for (const one of granted) this.#untold.add(capacities.permitId(one));
      this.#tell(granted.map(capacities.permitId));
      setCurrentDetails(capacityPage(this.#input.key, this.#state, Date.now()));
      if (mustContinue() && (await this.#toldAllGranted())) return false;
      if (this.#woken || this.#mayTell()) continue;

      const isIdle = this.#state.holders.length + this.#state.waiting.length === 0;
      if (!isIdle) idleSince = Date.now();
      if (isIdle && Date.now() - idleSince >= IDLE_MS) return true;
      const wakeAt = isIdle ? idleSince + IDLE_MS : this.#lookAt();
      const summary = isIdle ? 'end when nobody comes' : 'look who is still there';
      const news = () => this.#woken || this.#mayTell() || mustContinue();
      if (Date.now() < wakeAt) await condition(news, wakeAt - Date.now(), { summary });
      if (!isIdle && Date.now() >= this.#lookAt()) this.#look();
    }
  }

  #become(state: capacities.CapacityState): void {
    this.#state = state;
    this.#woken = true;
  }

  #lookAt(): number {
    const { lookSeconds } = this.#input;
    const waiting = this.#state.waiting.length;
    // The news of a long queue is about one signal a second.
    const every = waiting > 0 ? Math.max(LOOK_EVERY_MS, waiting * 1000) : QUIET_LOOK_MS;
    const look = this.#lookedAt + (lookSeconds === undefined ? every : lookSeconds * 1000);
    const starving = capacities.starvingAt(this.#state);
    return starving !== undefined && starving > this.#lookedAt ? Math.min(look, starving) : look;
  }

  #look(): void {
    this.#lookedAt = Date.now();
    for (const one of [...this.#state.holders, ...this.#state.waiting]) {
      this.#untold.add(capacities.permitId(one));
    }
  }

  #mayTell(): boolean {
    return this.#untold.size > 0 && this.#telling.size < TOLD_AT_ONCE;
  }

  /** A grant that nobody told would be a place that nobody uses, until the next look. */
  async #toldAllGranted(): Promise<boolean> {
    await Promise.all(this.#telling);
    return !this.#state.holders.some((one) => this.#untold.has(capacities.permitId(one)));
  }

  /** Begins to tell who is to hear how it stands, the granted before all others. */
  #tell(granted: readonly string[]): void {
    const others = [...this.#untold].filter((id) => !granted.includes(id));
    const room = Math.max(granted.length, TOLD_AT_ONCE - this.#telling.size);
    for (const id of [...granted, ...others].slice(0, room)) {
      this.#untold.delete(id);
      const telling = this.#tellOne(id).finally(() => this.#telling.delete(telling));
      this.#telling.add(telling);
    }
  }

  /** Whoever is not there any more loses its place. */
  async #tellOne(id: string): Promise<void> {
    const permit = capacities.find(this.#state, id);
    if (!permit) return;
    const turn = capacities.turnOf(this.#state, id);
    const news: PermitNews = { id, granted: permit.grantedAt !== undefined, ...turn };
    try {
      await getExternalWorkflowHandle(permit.workflowId, permit.runId).signal(permitSignal, news);
    } catch (error) {
      // Cancelled, it ends where it waits.
      if (!isCancellation(error)) this.#become(capacities.release(this.#state, id));
    }
  }
}

function mustContinue(): boolean {
  const { historyLength, continueAsNewSuggested } = workflowInfo();
  return historyLength >= CONTINUE_AFTER_EVENTS || continueAsNewSuggested;
}
