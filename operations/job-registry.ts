/** Long work that belongs to this process and not to whoever asked for it. */
export interface Job<Progress, Result> {
  readonly key: string;
  /** The newest report of the work; `undefined` before the first. */
  readonly progress: Progress | undefined;
  readonly settled: boolean;
  /** Resolves at the next report and when the work ends. */
  changed(): Promise<void>;
  /** The outcome; may be asked for any number of times, by any number of askers. */
  outcome(): Promise<Result>;
  /** Asks the work to stop and resolves when it has, however it ended. */
  stop(reason: unknown): Promise<void>;
}

/** What is wanted of work while it runs. An older version never undoes a newer one. */
export interface Wish {
  readonly version: number;
}

/** How wishes reach work that runs. */
export interface Wishes<Wanted extends Wish> {
  readonly latest: Wanted | undefined;
  /** Called with each later wish, until the returned function is. */
  listen(listener: (wish: Wanted) => void): () => void;
}

export interface JobRequest<Progress, Result, Wanted extends Wish = never> {
  /**
   * Names this piece of work: whoever asks with the same key gets the same job, also after it has ended well. What
   * failed or was stopped is begun anew.
   */
  readonly key: string;
  /** What the work is about. Another key with the same subject stops and replaces the older work: its asker is gone. */
  readonly subject: string;
  readonly run: (
    signal: AbortSignal,
    report: (progress: Progress) => void,
    wishes: Wishes<Wanted>,
  ) => Promise<Result>;
  /** What is wanted from the beginning; work that runs already is told. */
  readonly wish?: Wanted | undefined;
}

/** Good outcomes are kept this many jobs long, so that an asker whose answer was lost finds it. */
const SETTLED_KEPT = 50;
/** Wishes are kept this many, for work that has not begun yet. */
const WISHES_KEPT = 50;

/**
 * The long work of one process, by key. Temporal starts a second attempt of an activity while the first may still
 * run in this very process; both find the same job here, so nothing runs twice side by side. Across processes and
 * hosts the advisory lock and the lease do the same.
 */
export class JobRegistry {
  readonly #jobs = new Map<string, OwnedJob<unknown, unknown>>();
  /** By key, of work that is not here yet. */
  readonly #early = new Map<string, Wish>();

  /** The job of that key: the one that is here, or a new one. Work on the same subject under another key ends first. */
  startOrAttach<Progress, Result, Wanted extends Wish = never>(
    request: JobRequest<Progress, Result, Wanted>,
  ): Job<Progress, Result> {
    const { key, wish } = request;
    const present = this.#jobs.get(key);
    if (present && !present.failed) {
      if (wish) present.wishes.tell(wish);
      // A key names one kind of work, so what is kept under it has the types of this request.
      return present as OwnedJob<Progress, Result>;
    }
    const wishes = new Channel();
    for (const known of [present?.wishes.latest, this.#early.get(key), wish]) if (known) wishes.tell(known);
    this.#early.delete(key);
    const job = new OwnedJob<Progress, Result>(request, this.#running(request.subject), wishes);
    this.#jobs.set(key, job);
    this.#forgetOldest();
    return job;
  }

  /**
   * Tells the work of that key what is wanted of it: at once, or when it begins.
   *
   * @returns whether it runs here at this moment
   */
  control(key: string, wish: Wish): boolean {
    const job = this.#jobs.get(key);
    if (job && !job.failed) {
      job.wishes.tell(wish);
      return !job.settled;
    }
    const early = this.#early.get(key);
    this.#early.delete(key);
    this.#early.set(key, early && early.version > wish.version ? early : wish);
    for (const oldest of this.#early.keys()) {
      if (this.#early.size <= WISHES_KEPT) break;
      this.#early.delete(oldest);
    }
    return false;
  }

  /** Keys of the work that goes on at this moment. */
  running(): string[] {
    return [...this.#jobs.values()].filter((job) => !job.settled).map((job) => job.key);
  }

  /** Stops all work, for the end of the process. */
  async stopAll(reason: unknown): Promise<void> {
    await Promise.all([...this.#jobs.values()].map((job) => job.stop(reason)));
  }

  #running(subject: string): OwnedJob<unknown, unknown>[] {
    return [...this.#jobs.values()].filter((job) => job.subject === subject && !job.settled);
  }

  #forgetOldest(): void {
    const settled = [...this.#jobs.values()].filter((job) => job.settled);
    for (const job of settled.slice(0, Math.max(0, settled.length - SETTLED_KEPT)))
      this.#jobs.delete(job.key);
  }
}

type Work<Progress, Result> = Omit<JobRequest<Progress, Result>, 'wish'>;

class OwnedJob<Progress, Result> implements Job<Progress, Result> {
  readonly key: string;
  readonly subject: string;
  progress: Progress | undefined;
  settled = false;
  failed = false;
  readonly #abort = new AbortController();
  readonly wishes: Channel;
  readonly #outcome: Promise<Result>;
  #news = newsToCome();

  constructor(
    request: Work<Progress, Result>,
    predecessors: readonly Job<unknown, unknown>[],
    wishes: Channel,
  ) {
    this.wishes = wishes;
    this.key = request.key;
    this.subject = request.subject;
    this.#outcome = this.#run(request, predecessors);
    // Nobody may be attached when it fails; the outcome stays for whoever asks.
    this.#outcome.catch(() => {});
  }

  changed(): Promise<void> {
    return this.#news.promise;
  }

  outcome(): Promise<Result> {
    return this.#outcome;
  }

  async stop(reason: unknown): Promise<void> {
    if (!this.settled) this.#abort.abort(reason);
    await this.#outcome.catch(() => {});
  }

  async #run(
    request: Work<Progress, Result>,
    predecessors: readonly Job<unknown, unknown>[],
  ): Promise<Result> {
    try {
      for (const job of predecessors) await job.stop(new Error(`replaced by ${request.key}`));
      this.#abort.signal.throwIfAborted();
      const report = (progress: Progress) => {
        this.progress = progress;
        this.#announce();
      };
      // A key names one kind of work, and only wishes for that kind are sent to it.
      return await request.run(this.#abort.signal, report, this.wishes as unknown as Wishes<never>);
    } catch (error) {
      this.failed = true;
      throw error;
    } finally {
      this.settled = true;
      this.#announce();
    }
  }

  #announce(): void {
    const news = this.#news;
    this.#news = newsToCome();
    news.resolve();
  }
}

/** The newest wish, and who wants to hear of newer ones. */
class Channel implements Wishes<Wish> {
  latest: Wish | undefined;
  readonly #listeners = new Set<(wish: Wish) => void>();

  tell(wish: Wish): void {
    if (this.latest && this.latest.version >= wish.version) return;
    this.latest = wish;
    for (const listener of this.#listeners) listener(wish);
  }

  listen(listener: (wish: Wish) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }
}

function newsToCome(): { readonly promise: Promise<void>; readonly resolve: () => void } {
  let resolve = () => {};
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}
