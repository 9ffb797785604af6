import { describe, expect, it, test } from 'vitest';
import { describePath, historyFileName, parseHistory, timelinePath } from '../../core/timeline.ts';

const HISTORY = `1\t0/5000000\tno recovery target specified\n\n# a comment\n2\t0/70000A8\tbefore 2026-11-22 10:00:00+00\n`;

describe('timeline histories', () => {
  it('names the ancestors and where each was left', () => {
    expect(parseHistory(HISTORY)).toEqual([
      { timeline: 1, switchedAt: 0x5000000n },
      { timeline: 2, switchedAt: 0x70000a8n },
    ]);
  });

  it('the way to a timeline goes through its ancestors', () => {
    const path = timelinePath(3, parseHistory(HISTORY));
    expect(path.map((step) => step.timeline)).toEqual([1, 2, 3]);
    expect(path[1]).toEqual({ timeline: 2, beginsAt: 0x5000000n, endsAt: 0x70000a8n });
    expect(describePath(path)).toBe('1 to 0/5000000, then 2 to 0/70000A8, then 3');
  });

  test.for(['x', '1', '2\t0/1\n1\t0/2\n', '1\t0/1\n1\t0/2\n'])('%j is refused', (text) => {
    expect(() => parseHistory(text)).toThrow(/not a line of|must grow/);
  });

  it('history files are named in hexadecimal', () => {
    expect(historyFileName(1)).toBe('00000001.history');
    expect(historyFileName(26)).toBe('0000001A.history');
  });
});
