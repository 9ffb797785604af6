import { describe, expect, it } from 'vitest';
import { JobRegistry, type Wish, type Wishes } from '../../operations/job-registry.ts';

interface Speed extends Wish {
  readonly speed: number;
}

/** Work that goes on until it is told to end, and remembers what was wanted of it. */
function work(jobs: JobRegistry, key: string, wish?: Speed) {
  const heard: number[] = [];
  let end: (outcome: Promise<string>) => void = () => {};
  let seen: Wishes<Speed> | undefined;
  const job = jobs.startOrAttach<never, string, Speed>({
    key,
    subject: key,
    wish,
    run: async (_signal, _report, wishes) => {
      seen = wishes;
      if (wishes.latest) heard.push(wishes.latest.speed);
      wishes.listen(({ speed }) => heard.push(speed));
      return new Promise<string>((resolve) => (end = resolve));
    },
  });
  return { job, heard, end: (outcome: Promise<string>) => end(outcome), wishes: () => seen };
}

const wanted = (version: number, speed: number): Speed => ({ version, speed });

describe('control of jobs', () => {
  it('reaches the work that runs, and says so', async () => {
    const jobs = new JobRegistry();
    const { heard, job, end } = work(jobs, 'a');
    expect(jobs.control('a', wanted(1, 5))).toBe(true);
    expect(heard).toEqual([5]);
    end(Promise.resolve('done'));
    await job.outcome();
    expect(jobs.control('a', wanted(2, 6))).toBe(false);
  });

  it('F2: an older wish never undoes a newer one, and the same twice is once', () => {
    const jobs = new JobRegistry();
    const { heard } = work(jobs, 'a', wanted(3, 30));
    for (const [version, speed] of [
      [2, 20],
      [3, 31],
      [4, 40],
      [4, 40],
      [1, 10],
    ] as const)
      jobs.control('a', wanted(version, speed));
    expect(heard).toEqual([30, 40]);
  });

  it('F2: what was wanted before the work began waits for it, whichever way it came', () => {
    const jobs = new JobRegistry();
    expect(jobs.control('a', wanted(2, 20))).toBe(false);
    expect(jobs.control('a', wanted(1, 10))).toBe(false);
    expect(work(jobs, 'a', wanted(1, 10)).heard).toEqual([20]);
    expect(work(jobs, 'b', wanted(1, 10)).heard).toEqual([10]);
  });

  it('F2: an attempt that attaches tells what it knows; work begun anew has the newest wish', async () => {
    const jobs = new JobRegistry();
    const first = work(jobs, 'a');
    work(jobs, 'a', wanted(5, 50));
    expect(first.heard).toEqual([50]);
    first.end(Promise.reject(new Error('failed')));
    await expect(first.job.outcome()).rejects.toThrow('failed');
    expect(work(jobs, 'a', wanted(4, 40)).heard).toEqual([50]);
  });

  it('keeps no more early wishes than it must', () => {
    const jobs = new JobRegistry();
    for (let n = 0; n < 200; n += 1) jobs.control(`k${n}`, wanted(1, n));
    expect(work(jobs, 'k0').heard).toEqual([]);
    expect(work(jobs, 'k199').heard).toEqual([199]);
  });
});
