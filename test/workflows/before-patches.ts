/**
 * `@temporalio/workflow` as it is for code in which nothing was patched: bundled in its place, today's workflows do what
 * they did before every `patched(…)` in them.
 */
export * from '@temporalio/workflow/lib/index.js';

export function patched(_patchId: string): boolean {
  return false;
}

export function deprecatePatch(_patchId: string): void {}
