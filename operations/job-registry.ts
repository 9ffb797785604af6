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

export interface JobRequest<Progress, Result> {
  /**
   * Names this piece of work: whoever asks with the same key gets the same job, also after it has ended well. What
   * failed or was stopped is begun anew.
   */
  readonly key: string;
  /** What the work is about. Another key with the same subject stops and replaces the older work: its asker is gone. */
  readonly subject: string;
  readonly run: (signal: AbortSignal, report: (progress: Progress) => void) => Promise<Result>;
}

/** Good outcomes are kept this many jobs long, so that an asker whose answer was lost finds it. */
const SETTLED_KEPT = 50;

/**
 * The long work of one process, by key. Temporal starts a second attempt of an activity while the first may still
 * run in this very process; both find the same job here, so nothing runs twice side by side. Across processes and
 * hosts the advisory lock and the lease do the same.
 */
export class JobRegistry {
  readonly #jobs = new Map<string, OwnedJob<unknown, unknown>>();

  /** The job of that key: the one that is here, or a new one. Work on the same subject under another key ends first. */
  startOrAttach<Progress, Result>(request: JobRequest<Progress, Result>): Job<Progress, Result> {
    const present = this.#jobs.get(request.key);
    // A key names one kind of work, so what is kept under it has the types of this request.
    if (present && !present.failed) return present as OwnedJob<Progress, Result>;
    const job = new OwnedJob<Progress, Result>(request, this.#running(request.subject));
    this.#jobs.set(request.key, job);
    this.#forgetOldest();
    return job;
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

class OwnedJob<Progress, Result> implements Job<Progress, Result> {
  readonly key: string;
  readonly subject: string;
  progress: Progress | undefined;
  settled = false;
  failed = false;
  readonly #abort = new AbortController();
  readonly #outcome: Promise<Result>;
  #news = newsToCome();

  constructor(request: JobRequest<Progress, Result>, predecessors: readonly Job<unknown, unknown>[]) {
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
    request: JobRequest<Progress, Result>,
    predecessors: readonly Job<unknown, unknown>[],
  ): Promise<Result> {
    try {
      for (const job of predecessors) await job.stop(new Error(`replaced by ${request.key}`));
      this.#abort.signal.throwIfAborted();
      return await request.run(this.#abort.signal, (progress) => {
        this.progress = progress;
        this.#announce();
      });
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

function newsToCome(): { readonly promise: Promise<void>; readonly resolve: () => void } {
  let resolve = () => {};
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}
