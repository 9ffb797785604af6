import { describe, expect, it } from 'vitest';
import { ActivityCancellationDetails, CancelledFailure } from '@temporalio/common';
import { MockActivityEnvironment } from '@temporalio/testing';
import { attached } from '../../activities/attached.ts';
import { JobRegistry, type Job } from '../../operations/job-registry.ts';

interface Work {
  readonly job: Job<{ n: number }, string>;
  report(n: number): void;
  finish(result: string): void;
  fail(error: Error): void;
  readonly signal: AbortSignal;
}

function startWork(jobs = new JobRegistry(), key = 'k'): Work {
  const outcome: { resolve: (result: string) => void; reject: (error: Error) => void } = {
    resolve: () => {},
    reject: () => {},
  };
  const promise = new Promise<string>((resolve, reject) => Object.assign(outcome, { resolve, reject }));
  let report: (progress: { n: number }) => void = () => {};
  let signal = new AbortController().signal;
  const job = jobs.startOrAttach<{ n: number }, string>({
    key,
    subject: 's',
    run: (given, announce) => {
      signal = given;
      report = announce;
      given.addEventListener('abort', () => outcome.reject(given.reason as Error));
      return promise;
    },
  });
  return {
    job,
    report: (n) => report({ n }),
    finish: (result) => outcome.resolve(result),
    fail: (error) => outcome.reject(error),
    get signal() {
      return signal;
    },
  };
}

const answers = async () => {};
const turn = (ms = 20) => new Promise((resolve) => setTimeout(resolve, ms));

describe('attached', () => {
  it('returns the result of the job and beats with its progress', async () => {
    const environment = new MockActivityEnvironment({ heartbeatTimeoutMs: 100 });
    const beats: unknown[] = [];
    environment.on('heartbeat', (details: unknown) => beats.push(details));
    const work = startWork();
    const attempt = environment.run(() => attached(work.job, answers));
    work.report(7);
    await turn(80);
    work.finish('done');
    expect(await attempt).toBe('done');
    expect(beats).toContainEqual({ version: 1, n: 7 });
  });

  it('passes the failure of the job on', async () => {
    const work = startWork();
    const attempt = new MockActivityEnvironment().run(() => attached(work.job, answers));
    work.fail(new Error('broken'));
    await expect(attempt).rejects.toThrow('broken');
  });

  it.for(['cancelRequested', 'paused', 'workerShutdown'] as const)(
    '%s stops the job before the attempt ends',
    async (why) => {
      const environment = new MockActivityEnvironment();
      const work = startWork();
      const attempt = environment.run(() => attached(work.job, answers));
      await turn();
      environment.cancel(
        why === 'cancelRequested' ? 'CANCELLED' : 'WORKER_SHUTDOWN',
        new ActivityCancellationDetails({ [why]: true }),
      );
      await expect(attempt).rejects.toBeInstanceOf(CancelledFailure);
      expect(work.signal.aborted).toBe(true);
      expect(work.job.settled).toBe(true);
    },
  );

  it.for(['timedOut', 'notFound', 'reset'] as const)(
    '%s only detaches: the job goes on, and the next attempt finds it',
    async (why) => {
      const jobs = new JobRegistry();
      const environment = new MockActivityEnvironment();
      const work = startWork(jobs);
      const attempt = environment.run(() => attached(work.job, answers));
      await turn();
      environment.cancel('TIMED_OUT', new ActivityCancellationDetails({ [why]: true }));
      await expect(attempt).rejects.toBeInstanceOf(CancelledFailure);
      expect(work.signal.aborted).toBe(false);
      const again = jobs.startOrAttach<{ n: number }, string>({
        key: 'k',
        subject: 's',
        run: async () => {
          throw new Error('must not run twice');
        },
      });
      const second = new MockActivityEnvironment({ attempt: 2 }).run(() => attached(again, answers));
      work.finish('once');
      expect(await second).toBe('once');
    },
  );

  it('holds the result back until the server answers, and beats meanwhile', async () => {
    const environment = new MockActivityEnvironment({ heartbeatTimeoutMs: 60 });
    let beats = 0;
    environment.on('heartbeat', () => (beats += 1));
    let away = true;
    const work = startWork();
    let returned = false;
    const attempt = environment
      .run(() =>
        attached(work.job, async () => {
          if (away) throw new Error('unreachable');
        }),
      )
      .finally(() => (returned = true));
    work.finish('late');
    await turn(150);
    expect(returned).toBe(false);
    const before = beats;
    await turn(1_200);
    expect(beats).toBeGreaterThan(before);
    away = false;
    expect(await attempt).toBe('late');
  });
});

describe('JobRegistry', () => {
  it('begins anew what failed, and keeps what succeeded', async () => {
    const jobs = new JobRegistry();
    let runs = 0;
    const request = (result: () => string) => ({
      key: 'k',
      subject: 's',
      run: async () => {
        runs += 1;
        return result();
      },
    });
    const failing = jobs.startOrAttach(
      request(() => {
        throw new Error('no');
      }),
    );
    await expect(failing.outcome()).rejects.toThrow('no');
    expect(await jobs.startOrAttach(request(() => 'yes')).outcome()).toBe('yes');
    expect(await jobs.startOrAttach(request(() => 'other')).outcome()).toBe('yes');
    expect(runs).toBe(2);
  });

  it('F1: work on the same subject under another key stops the older one first', async () => {
    const jobs = new JobRegistry();
    const old = startWork(jobs, 'old');
    let oldWasOver = false;
    const next = jobs.startOrAttach({
      key: 'new',
      subject: 's',
      run: async () => {
        oldWasOver = old.job.settled;
        return 'new';
      },
    });
    expect(await next.outcome()).toBe('new');
    expect(oldWasOver).toBe(true);
    expect(old.signal.aborted).toBe(true);
  });

  it('stopAll stops everything and waits for it', async () => {
    const jobs = new JobRegistry();
    const work = startWork(jobs);
    await turn(1);
    expect(jobs.running()).toEqual(['k']);
    await jobs.stopAll(new Error('over'));
    expect(work.job.settled).toBe(true);
    expect(jobs.running()).toEqual([]);
  });
});
