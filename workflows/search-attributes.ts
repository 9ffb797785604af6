import { upsertSearchAttributes } from '@temporalio/workflow';
import { SEARCH_ATTRIBUTE } from './interface.ts';

export interface Findable {
  readonly cluster: string;
  readonly namespace: string;
  readonly operation: string;
  readonly backup?: string;
  readonly phase?: string;
}

/**
 * Makes this run findable. Setting an attribute the namespace does not have would block the run, so nothing is set
 * unless the worker said that they exist.
 */
export function makeFindable(exists: boolean, findable: Partial<Findable>): void {
  if (!exists) return;
  upsertSearchAttributes(
    Object.entries(findable).flatMap(([name, value]) =>
      value === undefined ? [] : [{ key: SEARCH_ATTRIBUTE[name as keyof Findable], value }],
    ),
  );
}
