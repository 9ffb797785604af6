import { describe, expect, it } from 'vitest';
import { believed } from '../../stores/believed.ts';

const signal = new AbortController().signal;

describe('what is believed', () => {
  it('is asked again after five minutes, and after a failure', async () => {
    let now = 0;
    let asked = 0;
    const ask = believed(
      () => Promise.resolve(++asked).then((n) => (n === 2 ? Promise.reject(new Error('down')) : n)),
      () => now,
    );
    expect(await ask(signal)).toBe(1);
    now = 299_999;
    expect(await ask(signal)).toBe(1);
    now = 300_000;
    await expect(ask(signal)).rejects.toThrow('down');
    expect(await ask(signal)).toBe(3);
  });

  it('A5: is asked for all at once; one that gives up is alone with that, and without anybody it is given up', async () => {
    const seen: AbortSignal[] = [];
    const answers: ((answer: string) => void)[] = [];
    const ask = believed((given) => {
      seen.push(given);
      return new Promise<string>((resolve, reject) => {
        answers.push(resolve);
        given.addEventListener('abort', () => reject(given.reason), { once: true });
      });
    });
    const [first, second] = [new AbortController(), new AbortController()];
    const waits = [ask(first.signal), ask(second.signal)];
    first.abort(new Error('the first one left'));
    await expect(waits[0]).rejects.toThrow('the first one left');
    expect(seen.map(({ aborted }) => aborted)).toEqual([false]);
    answers[0]?.('on');
    expect([await waits[1], await ask(signal)]).toEqual(['on', 'on']);
    expect(seen).toHaveLength(1);
  });

  it('is asked anew by whoever comes after the last one has left', async () => {
    let asked = 0;
    const ask = believed(
      (given) =>
        new Promise<number>((resolve, reject) => {
          asked += 1;
          if (asked === 2) resolve(asked);
          // As a library that takes its time to notice.
          given.addEventListener('abort', () => setTimeout(() => reject(given.reason), 20), { once: true });
        }),
    );
    const only = new AbortController();
    const waits = ask(only.signal);
    only.abort(new Error('left'));
    await expect(waits).rejects.toThrow('left');
    expect(await ask(signal)).toBe(2);
  });
});
