import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  admit,
  EMPTY,
  expire,
  pack,
  permitId,
  release,
  request,
  STARVING_MS,
  turnOf,
  unpack,
  type CapacityState,
  type PermitRequest,
} from '../../workflows/capacity-state.ts';

const FAR = 10 ** 13;
const NOW = 1_796_000_000_000;

function asking(n: number, change: Partial<PermitRequest> = {}): PermitRequest {
  const runId = `0199aaaa-0000-7000-8000-${String(n).padStart(12, '0')}`;
  return {
    workflowId: `backup/default/b${n}`,
    runId,
    n: 1,
    kind: 'backup',
    limit: 2,
    expiresAt: FAR,
    ...change,
  };
}

const id = (n: number) => permitId(asking(n));
const names = (permits: readonly { workflowId: string }[]) =>
  permits.map(({ workflowId }) => workflowId.split('/b')[1]);

function asked(...requests: PermitRequest[]): CapacityState {
  return requests.reduce((state, one, index) => request(state, one, NOW + index), EMPTY);
}

describe('capacity', () => {
  it('lets in as many backups as may run, the oldest first, and tells the others their turn', () => {
    const { state, granted } = admit(asked(...[1, 2, 3, 4].map((n) => asking(n))), NOW);
    expect(names(granted)).toEqual(['1', '2']);
    expect(turnOf(state, id(3))).toEqual({ place: 1, of: 2 });
    expect(turnOf(state, id(4))).toEqual({ place: 2, of: 2 });
    expect(names(admit(release(state, id(1)), NOW).granted)).toEqual(['3']);
  });

  it('F2: asking twice is asking once, waiting or granted, and giving back twice changes nothing', () => {
    const once = asked(asking(1), asking(2), asking(3));
    expect(request(once, asking(3), NOW + 99)).toEqual(once);
    const { state } = admit(once, NOW);
    expect(request(state, asking(1), NOW + 99)).toEqual(state);
    expect(release(release(state, id(1)), id(1))).toEqual(release(state, id(1)));
  });

  it('a restore goes at once, ahead of all, and counts against backups that did not begin', () => {
    const full = admit(asked(asking(1), asking(2), asking(3)), NOW).state;
    const { state, granted } = admit(request(full, asking(9, { kind: 'restore' }), NOW), NOW);
    expect(names(granted)).toEqual(['9']);
    const afterOne = admit(release(state, id(1)), NOW);
    expect(afterOne.granted).toEqual([]);
    expect(names(admit(release(afterOne.state, id(9)), NOW).granted)).toEqual(['3']);
  });

  it('a backup that restores keep out for an hour runs, one such at a time', () => {
    const restores = [8, 9].map((n) => asking(n, { kind: 'restore' }));
    const { state } = admit(asked(...restores, asking(1), asking(2)), NOW);
    expect(admit(state, NOW + STARVING_MS - 1000).granted).toEqual([]);
    const late = admit(state, NOW + STARVING_MS + 1000);
    expect(names(late.granted)).toEqual(['1']);
    expect(admit(late.state, NOW + 2 * STARVING_MS).granted).toEqual([]);
  });

  it('F2: the place of a holder whose time is over is free', () => {
    const { state } = admit(asked(asking(1, { expiresAt: NOW + 5 }), asking(2), asking(3)), NOW);
    expect(expire(state, NOW + 4)).toBe(state);
    expect(names(admit(expire(state, NOW + 5), NOW + 5).granted)).toEqual(['3']);
  });

  it('F4: carried on whole, in less than 64 KiB, whoever else asks then', () => {
    const many = Array.from({ length: 3_000 }, (_, n) =>
      asking(n, { workflowId: `backup/production/shop-${n}-20261124020000` }),
    );
    const { state } = admit(asked(...many), NOW);
    expect(state.waiting.length).toBeGreaterThan(400);
    expect(pack(state).length).toBeLessThan(64 * 1024);
    expect(unpack(pack(state))).toEqual(state);
    // Full is full for backups, not for restores.
    const full = request(state, asking(9_999, { kind: 'restore' }), NOW);
    expect(names(admit(full, NOW).granted)).toEqual(['9999']);
  });

  it('never more backups than may run, in the order they came, none starved: any story', () => {
    const step = fc.oneof(
      { weight: 5, arbitrary: fc.record({ do: fc.constant('ask' as const), n: fc.nat(40) }) },
      {
        weight: 1,
        arbitrary: fc.record({ do: fc.constant('restore' as const), n: fc.integer({ min: 100, max: 110 }) }),
      },
      { weight: 5, arbitrary: fc.record({ do: fc.constant('end' as const), n: fc.nat(20) }) },
    );
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5 }), fc.array(step, { maxLength: 120 }), (limit, steps) => {
        let state: CapacityState = EMPTY;
        const order: string[] = [];
        const came: string[] = [];
        const settle = (now: number) => {
          const next = admit(state, now);
          state = unpack(pack(next.state));
          expect(state).toEqual(next.state);
          order.push(...next.granted.filter(({ kind }) => kind === 'backup').map(permitId));
          expect(state.holders.filter(({ kind }) => kind === 'backup').length).toBeLessThanOrEqual(limit);
          expect(state.waiting.every(({ kind }) => kind === 'backup')).toBe(true);
        };
        steps.forEach((one, at) => {
          if (one.do === 'end') {
            const holder = state.holders[one.n % Math.max(1, state.holders.length)];
            if (holder) state = release(state, permitId(holder));
          } else {
            const kind = one.do === 'restore' ? 'restore' : 'backup';
            const wanted = asking(one.n, { kind, limit, n: at + 1 });
            if (kind === 'backup') came.push(permitId(wanted));
            state = request(state, wanted, NOW + at);
          }
          settle(NOW + at);
        });
        // When all end, all get their turn.
        for (let left = 300; state.holders.length > 0 && left > 0; left -= 1) {
          state = release(state, permitId(state.holders[0]!));
          settle(NOW + 1000);
        }
        expect(state.waiting).toEqual([]);
        expect(order).toEqual(came);
      }),
    );
  });
});
