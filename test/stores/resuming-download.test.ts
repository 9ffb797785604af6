import { describe, expect, it } from 'vitest';
import { resumingDownload, type Download, type DownloadAnswer } from '../../stores/resuming-download.ts';

const { signal } = new AbortController();
const CONTENT = 'abcdefghij';

/** An answer that gives `text` in pieces of three bytes, and then ends, or breaks. */
function answer(text: string, { sizeBytes, breaks }: { sizeBytes?: number; breaks?: Error } = {}) {
  let discarded = 0;
  async function* body() {
    for (let at = 0; at < text.length; at += 3) yield Buffer.from(text.slice(at, at + 3));
    if (breaks) throw breaks;
  }
  const made: DownloadAnswer = {
    sizeBytes: sizeBytes ?? text.length,
    body: body(),
    discard: () => discarded++,
  };
  return { ...made, discarded: () => discarded };
}

async function read(change: Partial<Download> & { first: DownloadAnswer }) {
  const pieces: string[] = [];
  const download = { what: 'get k', resume: undefined, idleMs: 1000, signal, ...change };
  let error: unknown;
  try {
    for await (const piece of resumingDownload(download)) pieces.push(Buffer.from(piece).toString());
  } catch (thrown) {
    error = thrown;
  }
  return { text: pieces.join(''), error };
}

describe('a body that is resumed', () => {
  const broken = new Error('reset');

  it('E2: goes on behind what came, and is whole', async () => {
    const asked: number[] = [];
    const rests = [
      answer(CONTENT.slice(5), { sizeBytes: 4 }),
      answer(CONTENT.slice(5, 6), { sizeBytes: 5, breaks: broken }),
      answer(CONTENT.slice(6), { sizeBytes: 4 }),
    ];
    const first = answer(CONTENT.slice(0, 5), { sizeBytes: 10, breaks: broken });
    const resume = async (came: number) => {
      asked.push(came);
      return rests[asked.length - 1]!;
    };
    expect(await read({ first, resume })).toEqual({ text: CONTENT, error: undefined });
    // the first rest is of another length, and left
    expect(asked).toEqual([5, 5, 6]);
    expect([first, ...rests].map(({ discarded }) => discarded())).toEqual([1, 1, 1, 1]);
  });

  it('E2: is given up where the version is not known', async () => {
    const first = answer('abc', { sizeBytes: 10, breaks: broken });
    expect(await read({ first })).toMatchObject({ text: 'abc', error: { code: 'store-unavailable' } });
  });

  it('E2: that ends early without any error is not the whole', async () => {
    const first = answer('abc', { sizeBytes: 10 });
    expect(await read({ first })).toMatchObject({
      error: { code: 'store-unavailable', message: expect.stringContaining('3 of 10') },
    });
  });

  it('E2: its last bytes are not given when they are not what was stored', async () => {
    const seen: string[] = [];
    const checksum = {
      update: (piece: Uint8Array) => void seen.push(Buffer.from(piece).toString()),
      isRight: () => false,
    };
    const { text, error } = await read({ first: answer(CONTENT), checksum });
    expect(error).toMatchObject({ code: 'object-damaged' });
    expect(text).toBe('abcdefghi');
    expect(seen.join('')).toBe(CONTENT);
    const mismatch = new Error('Checksum mismatch: expected "x"');
    const bySdk = await read({ first: answer(CONTENT, { breaks: mismatch }) });
    expect(bySdk).toMatchObject({ text: 'abcdefghi', error: { code: 'object-damaged' } });
  });

  it('is whole when it breaks behind its last byte', async () => {
    expect(await read({ first: answer(CONTENT, { breaks: broken }) })).toEqual({
      text: CONTENT,
      error: undefined,
    });
    expect(await read({ first: answer('') })).toEqual({ text: '', error: undefined });
  });

  it('E2: with more than was announced is damaged', async () => {
    const more = await read({ first: answer(`${CONTENT}kl`, { sizeBytes: 10 }) });
    expect(more).toMatchObject({ error: { code: 'object-damaged' } });
    expect(more.text.length).toBeLessThan(10);
  });

  it('E2: that does not say its length is not read', async () => {
    const { discarded, ...first } = answer(CONTENT);
    const { text, error } = await read({ first: { ...first, sizeBytes: undefined } });
    expect([text, discarded()]).toEqual(['', 1]);
    expect(error).toMatchObject({ code: 'store-unavailable' });
  });
});
