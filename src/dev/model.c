/* SPDX-License-Identifier: MIT */
/* What all models have in common. */
#include <virtq/model.h>

void virtq_model_destroy(struct virtq_model *model)
{
	if (model)
		model->ops->destroy(model);
}
