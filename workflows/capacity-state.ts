/** Who asks for a place, as it came by signal. */
export interface PermitRequest {
  readonly workflowId: string;
  readonly runId: string;
  /** Tells the permits of one run apart: it asks anew for each attempt. Asked twice with the same number is asked once. */
  readonly n: number;
  readonly kind: 'backup' | 'restore';
  /** How many backups may run at once; the newest word counts. */
  readonly limit: number;
  /** When its holder must have ended, ms since 1970: the place is free from then on. */
  readonly expiresAt: number;
}

/** A request that waits, or holds a place. Times are ms since 1970. */
export interface Permit extends Omit<PermitRequest, 'limit'> {
  readonly askedAt: number;
  readonly grantedAt?: number;
}

/** All that is known of one shared thing; bounded, and carried on when the workflow continues as new. */
export interface CapacityState {
  readonly limit: number;
  readonly holders: readonly Permit[];
  /** The oldest first. */
  readonly waiting: readonly Permit[];
  /** The most that ever held a place at once, restores included. */
  readonly mostHolders: number;
  readonly granted: number;
}

/** F4: all of it is one payload when the workflow continues as new, and none is larger than 64 KiB. */
const MOST_BYTES = 60_000;
/** Of one permit, packed, without the workflow's id. */
const PERMIT_BYTES = 75;
/** A backup that waited longer is let in although restores hold all places, one such at a time. */
export const STARVING_MS = 3_600_000;

export const EMPTY: CapacityState = { limit: 1, holders: [], waiting: [], mostHolders: 0, granted: 0 };

/** Names one permit: in `release`, and in what its holder is told. */
export function permitId({ runId, n }: Pick<PermitRequest, 'runId' | 'n'>): string {
  return `${runId}/${n}`;
}

/** Whether a signal is a request: people may send anything. */
export function isRequest(asked: unknown): asked is PermitRequest {
  if (typeof asked !== 'object' || asked === null) return false;
  const { workflowId, runId, n, kind, limit, expiresAt } = asked as Partial<PermitRequest>;
  const texts = [workflowId, runId].every((text) => typeof text === 'string' && !/[\s]/.test(text));
  const numbers = [n, limit, expiresAt].every((number) => Number.isFinite(number));
  return texts && numbers && (kind === 'backup' || kind === 'restore');
}

/** Takes a request in. Asked twice is asked once. A full queue refuses by forgetting: who waits asks again. */
export function request(state: CapacityState, asked: PermitRequest, now: number): CapacityState {
  const { limit, ...wanted } = asked;
  const told = { ...state, limit: Math.max(1, Math.floor(limit)) };
  if (find(state, permitId(asked)) || (asked.kind === 'backup' && isFull(state))) return told;
  return { ...told, waiting: [...told.waiting, { ...wanted, askedAt: now }] };
}

function isFull({ holders, waiting }: CapacityState): boolean {
  const bytes = [...holders, ...waiting].reduce(
    (sum, { workflowId }) => sum + workflowId.length + PERMIT_BYTES,
    0,
  );
  return bytes > MOST_BYTES;
}

/** Gives a place back, or leaves the queue. */
export function release(state: CapacityState, id: string): CapacityState {
  return {
    ...state,
    holders: state.holders.filter((one) => permitId(one) !== id),
    waiting: state.waiting.filter((one) => permitId(one) !== id),
  };
}

/**
 * Lets in who may go now: every restore, at once; then backups, the oldest first, while fewer than `limit` hold a
 * place. Restores count: they take places from backups that did not begin yet, never from one that runs.
 */
export function admit(state: CapacityState, now: number): { state: CapacityState; granted: Permit[] } {
  const granted: Permit[] = [];
  const waiting: Permit[] = [];
  let backups = state.holders.filter(({ kind }) => kind === 'backup').length;
  let held = state.holders.length + state.waiting.filter(({ kind }) => kind === 'restore').length;
  for (const one of state.waiting) {
    if (one.kind === 'restore') {
      granted.push({ ...one, grantedAt: now });
      continue;
    }
    const starving = backups === 0 && now - one.askedAt >= STARVING_MS;
    // Whoever came first goes first: once one has to wait, all behind it do.
    if (waiting.length === 0 && (held < state.limit || starving)) {
      granted.push({ ...one, grantedAt: now });
      backups += 1;
      held += 1;
    } else {
      waiting.push(one);
    }
  }
  if (granted.length === 0) return { state, granted };
  const holders = [...state.holders, ...granted];
  return {
    state: {
      ...state,
      holders,
      waiting,
      mostHolders: Math.max(state.mostHolders, holders.length),
      granted: state.granted + granted.length,
    },
    granted,
  };
}

/** Frees the places of those whose time is over, however alive they may be, and drops waiters past theirs. */
export function expire(state: CapacityState, now: number): CapacityState {
  const alive = (one: Permit) => one.expiresAt > now;
  if ([...state.holders, ...state.waiting].every(alive)) return state;
  return { ...state, holders: state.holders.filter(alive), waiting: state.waiting.filter(alive) };
}

export function find(state: CapacityState, id: string): Permit | undefined {
  return [...state.holders, ...state.waiting].find((one) => permitId(one) === id);
}

/** The place in the queue, from 1, and its length; `undefined` for who does not wait. */
export function turnOf(state: CapacityState, id: string): { place: number; of: number } | undefined {
  const index = state.waiting.findIndex((one) => permitId(one) === id);
  return index < 0 ? undefined : { place: index + 1, of: state.waiting.length };
}

/** When the next one waiting counts as starving, ms since 1970; `undefined` when time alone changes nothing. */
export function starvingAt(state: CapacityState): number | undefined {
  const [first] = state.waiting;
  return first && first.askedAt + STARVING_MS;
}

/** The state as text, to carry on: about a hundred bytes a permit. */
export function pack({ limit, holders, waiting, mostHolders, granted }: CapacityState): string {
  const head = [limit, mostHolders, granted].join(' ');
  return [head, ...[...holders, ...waiting].map(packPermit)].join('\n');
}

/** What `pack` wrote. */
export function unpack(text: string): CapacityState {
  const [head = '', ...lines] = text.split('\n');
  const [limit = 1, mostHolders = 0, granted = 0] = head.split(' ').map(Number);
  const permits = lines.map(unpackPermit);
  return {
    limit,
    mostHolders,
    granted,
    holders: permits.filter(({ grantedAt }) => grantedAt !== undefined),
    waiting: permits.filter(({ grantedAt }) => grantedAt === undefined),
  };
}

/** Times in base 36. Ids hold no white space: `isRequest`. */
function packPermit(permit: Permit): string {
  const { runId, n, kind, askedAt, grantedAt, expiresAt, workflowId } = permit;
  const times = [askedAt, expiresAt].map((time) => Math.round(time).toString(36));
  const granted = grantedAt === undefined ? '-' : Math.round(grantedAt).toString(36);
  return [runId, n, kind === 'restore' ? 'r' : 'b', ...times, granted, workflowId].join(' ');
}

function unpackPermit(line: string): Permit {
  const [runId = '', n = '', kind, askedAt = '', expiresAt = '', granted = '-', workflowId = ''] =
    line.split(' ');
  return {
    workflowId,
    runId,
    n: Number(n),
    kind: kind === 'r' ? 'restore' : 'backup',
    askedAt: parseInt(askedAt, 36),
    expiresAt: parseInt(expiresAt, 36),
    ...(granted !== '-' && { grantedAt: parseInt(granted, 36) }),
  };
}
