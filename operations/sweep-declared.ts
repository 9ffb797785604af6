import { formatDuration } from '../core/duration.ts';
import { fingerprint } from '../core/fingerprint.ts';
import { policyOf, type Desire } from '../manifests/desire.ts';
import { sweepRules, type SweepRules } from './gather-retention.ts';

/** What decides what stays. */
export type DeclaredRules = Pick<Desire, 'cluster' | 'policy'>;

/** What a keeper said when it was asked; `gone`: there is none any more; `silent`: nobody answered. */
export type Heard = (DeclaredRules & { readonly doubt?: string }) | 'gone' | 'silent';

/** So long a sweep goes on by what was said last: whoever is cut off from Temporal can't be told to stop. */
const MAX_SILENCE_MS = 5 * 60_000;

/** @param doubt why nothing may be decided by what is declared */
export function rulesOf({
  desire,
  doubt,
}: {
  readonly desire: DeclaredRules;
  readonly doubt?: string;
}): SweepRules {
  return {
    ...sweepRules(desire.cluster, policyOf(desire), desire.policy !== undefined),
    ...(doubt !== undefined && { doubt }),
  };
}

/** Holds what is said while a sweep deletes against what it began with. */
export class DeclarationWatch {
  readonly #print: string;
  readonly #now: () => number;
  #heardAt: number;

  /**
   * @param began what a keeper has just said
   * @param now in ms, from any beginning; a clock that nobody sets
   */
  constructor(began: DeclaredRules, now: () => number = () => performance.now()) {
    this.#print = printOf(began);
    this.#now = now;
    this.#heardAt = now();
  }

  /** @returns why what the sweep began with does not hold any more, as a whole phrase; `undefined`: go on */
  whatChanged(heard: Heard): string | undefined {
    if (heard === 'gone') return 'the Cluster was deleted meanwhile';
    if (heard === 'silent') return this.#tooLongSilent();
    this.#heardAt = this.#now();
    if (heard.doubt !== undefined) return heard.doubt;
    return printOf(heard) === this.#print
      ? undefined
      : 'what is declared has changed meanwhile; the next sweep goes by it';
  }

  #tooLongSilent(): string | undefined {
    const silentMs = this.#now() - this.#heardAt;
    if (silentMs < MAX_SILENCE_MS) return undefined;
    return `the keeper has not said for ${formatDuration(Math.floor(silentMs / 1000) * 1000)} whether what is declared still holds`;
  }
}

/** Of all that decides what stays. */
function printOf({ cluster, policy }: DeclaredRules): string {
  return fingerprint({ cluster, policy });
}
