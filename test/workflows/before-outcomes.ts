import { patched as isPatched } from '@temporalio/workflow/lib/index.js';

/** `@temporalio/workflow` as it is for a version that knows every patch but the one named `outcomes`. */
export * from '@temporalio/workflow/lib/index.js';

export function patched(patchId: string): boolean {
  return patchId !== 'outcomes' && isPatched(patchId);
}
